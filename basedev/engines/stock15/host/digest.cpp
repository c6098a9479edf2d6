#include "digest.h"

#include "methods.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

static const int MOST_DEEP = 2000;  // levels of a value

static bool is_counted(const char *name) { return strchr(name, '#') != nullptr; }

static bool is_in(const char *pointer, jl_value_t *string) {
    return pointer && string && jl_string_data(string) <= pointer &&
           pointer <= jl_string_data(string) + jl_string_len(string);
}

Digest::Digest(const std::string &module) : module(module) {
    std::replace(this->module.begin(), this->module.end(), '.', '_');
}

void Digest::bytes(const void *data, size_t size) {
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3;
}

void Digest::word(const char *text) { bytes(text, strlen(text) + 1); }

// Whether a name is an id of a log message of the statement: its module's name and eight digits.
bool Digest::is_log_id(const char *text, size_t length) const {
    return length >= 10 && text[length - 9] == '_' && strspn(text + length - 8, "0123456789abcdef") == 8 &&
           module == std::string(text, length - 9);
}

void Digest::name(jl_sym_t *symbol) {
    const char *shown = jl_symbol_name(symbol);
    size_t length = strlen(shown);
    text(std::string(shown, is_log_id(shown, length) ? length - 8 : length));
}

void Digest::text(const std::string &shown) {
    bool counted = is_counted(shown.c_str());
    for (char c : shown)
        if (!(counted && c >= '0' && c <= '9'))
            bytes(&c, 1);
    bytes("", 1);
}

// As it prints: a type of the same name is the same, and its own definition tells when it is not.
void Digest::type(jl_value_t *object) {
    if (!jl_is_datatype(object)) {
        text(type_text(object));
        return closures_in(object);
    }
    std::string &known = type_texts[(jl_datatype_t *)object];
    if (known.empty())
        known = type_text(object);
    text(known);
    closures_in(object);
}

void Digest::value(jl_value_t *object, int depth) {
    if (!object)
        return word("null");
    if (depth > MOST_DEEP)
        return word("deep");
    auto *of = (jl_datatype_t *)jl_typeof(object);
    if (jl_is_symbol(object))
        return name((jl_sym_t *)object);
    if (jl_is_type(object) || jl_is_typevar(object))
        return type(object);
    type((jl_value_t *)of);
    if (jl_is_module(object))
        return text(module_text((jl_module_t *)object));
    if (jl_is_string(object))
        return bytes(jl_string_data(object), jl_string_len(object));
    if (jl_is_method(object) || jl_is_method_instance(object) || jl_is_task(object) ||
        jl_is_cpointer_type((jl_value_t *)of))
        return;
    if (jl_is_linenode(object))
        return;  // lines are told by themselves
    if (jl_is_svec(object)) {
        for (size_t i = 0; i < jl_svec_len(object); i++)
            value(jl_svecref(object, i), depth + 1);
        return;
    }
    if (jl_is_code_info(object))
        return code((jl_code_info_t *)object, depth);
    if (jl_is_array(object))
        return array((jl_array_t *)object, of, depth);
    if (!strcmp(jl_symbol_name(of->name->name), "Dict") && of->name->module == jl_base_module)
        return table(object, depth);
    if (jl_is_globalref(object) && is_counted(jl_symbol_name(jl_globalref_name(object))))
        if (jl_value_t *closure = jl_get_global(jl_globalref_mod(object), jl_globalref_name(object)))
            closures_in(closure);
    if (of->mutabl && !seen.insert(object).second)
        return word("again");
    contents((char *)object, of, depth);
}

void Digest::array(jl_array_t *array, jl_datatype_t *type, int depth) {
    size_t length = jl_array_len(array);
    for (size_t i = 0; i < jl_array_ndims(array); i++)
        bytes(&jl_array_dim(array, i), sizeof length);
    auto *element = (jl_datatype_t *)jl_tparam0(type);
    if (jl_array_isbitsunion(array))
        bytes(jl_array_typetagdata(array), length);
    if (!array->flags.ptrarray && !array->flags.hasptr)
        return bytes(array->data, length * array->elsize);
    for (size_t i = 0; i < length; i++) {
        if (array->flags.hasptr)
            contents((char *)array->data + i * array->elsize, element, depth);
        else
            value(jl_array_ptr_ref(array, i), depth + 1);
    }
}

void Digest::table(jl_value_t *object, int depth) {
    auto *slots = (jl_array_t *)jl_fieldref(object, 0);
    for (size_t i = 0; i < jl_array_len(slots); i++)
        for (int field = 1; ((char *)slots->data)[i] == 1 && field <= 2; field++)
            value(jl_arrayref((jl_array_t *)jl_fieldref(object, field), i), depth + 1);
}

void Digest::tree(jl_value_t *code) {
    if (!jl_is_expr(code) && !jl_is_quotenode(code))
        return value(code);
    if (jl_is_quotenode(code)) {
        word("quote");
        return tree(jl_quotenode_value(code));
    }
    auto *arguments = ((jl_expr_t *)code)->args;
    size_t count = jl_array_len(arguments);
    name(((jl_expr_t *)code)->head);
    bytes(&count, sizeof count);
    for (size_t i = 0; i < count; i++)
        tree(jl_array_ptr_ref(arguments, i));
}

void Digest::code(jl_code_info_t *code, int depth) {
    value((jl_value_t *)code->slotnames, depth + 1);
    for (uint8_t flag : {code->inlineable, code->propagate_inbounds, code->pure})
        bytes(&flag, 1);
    value((jl_value_t *)code->code, depth + 1);
}

// Of a struct in memory: immutable ones stand inside others, with their pointers.
void Digest::contents(const char *memory, jl_datatype_t *type, int depth) {
    if (jl_datatype_nfields(type) == 0)
        return bytes(memory, jl_datatype_size(type));
    const char *pointer = nullptr;  // to the memory of a BigFloat, a string, of which parts may be unused
    for (size_t i = 0; i < jl_datatype_nfields(type); i++)
        if (jl_is_cpointer_type(jl_field_type(type, i)))
            pointer = *(const char **)(memory + jl_field_offset(type, i));
    for (size_t i = 0; i < jl_datatype_nfields(type); i++) {
        const char *field = memory + jl_field_offset(type, i);
        jl_value_t *of = jl_field_type(type, i);
        if (jl_is_cpointer_type(of) ||
            (of == (jl_value_t *)jl_string_type && is_in(pointer, *(jl_value_t **)field)))
            continue;
        if (jl_field_isptr(type, i))
            value(*(jl_value_t **)field, depth + 1);
        else if (jl_is_datatype(of))
            contents(field, (jl_datatype_t *)of, depth + 1);
        else
            bytes(field, jl_field_size(type, i));  // one of several types, of plain data
    }
}

// A closure that an edited function makes is another one under a name that differs by its counter only: closures are
// told by what they do.
void Digest::closures_in(jl_value_t *type) {
    type = unwrap(type);
    if (jl_is_uniontype(type)) {
        closures_in(((jl_uniontype_t *)type)->a);
        return closures_in(((jl_uniontype_t *)type)->b);
    }
    if (!jl_is_datatype(type))
        return;
    auto *name = ((jl_datatype_t *)type)->name;  // `#f` of a function with a name, which its method table has
    if (jl_subtype(name->wrapper, (jl_value_t *)jl_function_type) && name->mt &&
        is_counted(jl_symbol_name(name->mt->name)) && closures.insert(name).second)
        methods_of(name);
    for (size_t i = 0; i < jl_nparams(type); i++)
        closures_in(jl_tparam(type, i));
}

void Digest::methods_of(jl_typename_t *closure) {
    for_each_method_in(closure->mt, [&](jl_typemap_entry_t *entry) {
        if (!jl_is_method(entry->func.value) || entry->max_world != ALWAYS)
            return;
        jl_method_t *method = entry->func.method;
        type(method->sig);
        if (jl_code_info_t *source = lowered_code(method)) {
            JL_GC_PUSH1(&source);
            code(source, 0);
            JL_GC_POP();
        }
    });
}

std::string Digest::digits() const {
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
    return digits;
}
