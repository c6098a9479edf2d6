#include "bindings.h"

#include "methods.h"

#include <cstring>

static jl_binding_t *binding_in(jl_module_t *module, jl_sym_t *name) {
    void **table = module->bindings.table;
    for (size_t i = 0; i < module->bindings.size; i += 2)
        if (table[i] == name && table[i + 1] != HT_NOTFOUND)
            return (jl_binding_t *)table[i + 1];
    return nullptr;
}

// The binding of a name in the module that owns it, or null when it has none there.
static jl_binding_t *own_binding(jl_module_t *module, jl_sym_t *name) {
    jl_binding_t *binding = binding_in(module, name);
    return binding && binding->owner == module ? binding : nullptr;
}

jl_value_t *unbind(jl_module_t *module, jl_sym_t *name) {
    jl_binding_t *binding = binding_in(module, name);
    if (!binding)
        return nullptr;
    jl_value_t *value = binding->value;
    binding->value = nullptr;
    binding->owner = nullptr;
    binding->constp = binding->imported = binding->deprecated = 0;
    return value;
}

void unexport(jl_module_t *module, jl_sym_t *name) {
    if (jl_binding_t *binding = binding_in(module, name))  // nobody owns what is exported and never defined
        binding->exportp = 0;
}

namespace {

// Whether lowered code, or a type, refers to a binding or to the value that it has.
class References {
public:
    References(jl_module_t *module, jl_sym_t *name, jl_value_t *value) : module(module), name(name), value(value) {
        if (value && jl_is_datatype(unwrap(value))) {
            jl_typename_t *own = ((jl_datatype_t *)unwrap(value))->name;
            if (own->name == name && own->module == module)  // else another name for a type that stays
                type_name = own;
        }
    }

    bool in_type(jl_value_t *type) const {
        if (!type_name || !type)
            return false;
        if (jl_is_unionall(type))
            return in_type(((jl_unionall_t *)type)->body) || in_type((jl_value_t *)((jl_unionall_t *)type)->var);
        if (jl_is_typevar(type))
            return in_type(((jl_tvar_t *)type)->lb) || in_type(((jl_tvar_t *)type)->ub);
        if (jl_is_uniontype(type))
            return in_type(((jl_uniontype_t *)type)->a) || in_type(((jl_uniontype_t *)type)->b);
        if (!jl_is_datatype(type))
            return false;
        auto *data = (jl_datatype_t *)type;
        if (data->name == type_name)
            return true;
        for (size_t i = 0; i < jl_svec_len(data->parameters); i++)
            if (in_type(jl_svecref(data->parameters, i)))
                return true;
        return false;
    }

    bool in_code(jl_value_t *code) const {
        if (!code)
            return false;
        if (jl_is_globalref(code))
            return jl_globalref_name(code) == name && jl_binding_owner(jl_globalref_mod(code), name) == (jl_value_t *)module;
        if (jl_is_expr(code)) {
            jl_array_t *arguments = ((jl_expr_t *)code)->args;
            for (size_t i = 0; i < jl_array_len(arguments); i++)
                if (in_code(jl_array_ptr_ref(arguments, i)))
                    return true;
            return false;
        }
        if (jl_is_quotenode(code))
            return in_code(jl_quotenode_value(code));
        return (code == value && !jl_is_symbol(code) && (type_name || !jl_is_type(code))) ||
               (jl_is_type(code) && in_type(code));
    }

    bool in_method(jl_method_t *method) const {
        if (in_type(method->sig))
            return true;
        bool found = false;
        if (jl_code_info_t *source = lowered_code(method)) {
            JL_GC_PUSH1(&source);
            for (size_t i = 0; i < jl_array_len(source->code) && !found; i++)
                found = in_code(jl_array_ptr_ref(source->code, i));
            JL_GC_POP();
        }
        return found;
    }

private:
    jl_module_t *module;
    jl_sym_t *name;
    jl_value_t *value;
    jl_typename_t *type_name = nullptr;
};

}  // namespace

void write_users(Json &json, const Image &image, jl_module_t *module, jl_sym_t *name) {
    jl_binding_t *binding = own_binding(module, name);
    References references(module, name, binding ? binding->value : nullptr);
    json.open('{').key("modules").open('[');
    for (jl_value_t *object : image.all_of(jl_module_type)) {
        auto *user = (jl_module_t *)object;
        if (user == module || jl_binding_owner(user, name) == (jl_value_t *)module)
            json.string(module_text(user));
    }
    json.close(']').key("methods").open('[');
    for_each_method(image, [&](jl_methtable_t *, jl_typemap_entry_t *entry) {
        if (!jl_is_method(entry->func.value) || entry->max_world != ALWAYS || !references.in_method(entry->func.method))
            return;
        json.open('{');
        write_method(json, entry);
        json.close('}');
    });
    json.close(']').key("objects");
    bool objects = false;
    image.for_each_object([&](jl_value_t *object) {
        auto *type = (jl_datatype_t *)jl_typeof(object);
        objects = objects || (object != type->instance && references.in_type((jl_value_t *)type));
    });
    json.raw(objects ? "true" : "false").close('}');
}

void BindingSnapshot::for_each(const std::function<void(jl_module_t *, jl_binding_t *)> &visit) const {
    for (jl_value_t *object : image.all_of(jl_module_type)) {
        auto *module = (jl_module_t *)object;
        void **table = module->bindings.table;
        for (size_t i = 1; i < module->bindings.size; i += 2)
            if (table[i] != HT_NOTFOUND && ((jl_binding_t *)table[i])->owner == module)
                visit(module, (jl_binding_t *)table[i]);
    }
}

BindingSnapshot::BindingSnapshot(const Image &image) : image(image) {
    for_each([&](jl_module_t *, jl_binding_t *binding) {
        before[binding] = {binding->value, (bool)binding->constp};
    });
}

static const char *kind_of(jl_binding_t *binding) {
    jl_value_t *value = binding->value;
    if (jl_is_module(value))
        return "module";
    if (jl_is_datatype(unwrap(value)))
        return "type";
    if (jl_isa(value, (jl_value_t *)jl_function_type))
        return "function";
    return binding->constp ? "constant" : "global";
}

static bool contents_alike(const char *a, const char *b, jl_datatype_t *type, int depth);

// Whether two values were made alike: the same kind of object with the same contents, however deep.
// Pointers are left out: an image has none.
static bool alike(jl_value_t *a, jl_value_t *b, int depth = 0) {
    if (a == b)
        return true;
    if (!a || !b || depth > 30 || (jl_typeof(a) != jl_typeof(b) && !(jl_is_type(a) && jl_is_type(b))))
        return false;
    auto *type = (jl_datatype_t *)jl_typeof(a);
    if (jl_is_string(a))
        return jl_string_len(a) == jl_string_len(b) && !memcmp(jl_string_data(a), jl_string_data(b), jl_string_len(a));
    if (jl_is_type(a))
        return jl_types_equal(a, b);
    if (jl_is_symbol(a) || jl_is_module(a))
        return false;
    if (jl_is_svec(a)) {
        for (size_t i = 0; jl_svec_len(a) == jl_svec_len(b) && i < jl_svec_len(a); i++)
            if (!alike(jl_svecref(a, i), jl_svecref(b, i), depth + 1))
                return false;
        return jl_svec_len(a) == jl_svec_len(b);
    }
    if (jl_is_array(a)) {
        auto *one = (jl_array_t *)a, *other = (jl_array_t *)b;
        if (jl_array_len(one) != jl_array_len(other))
            return false;
        for (size_t i = 0; one->flags.hasptr && i < jl_array_len(one); i++)
            if (!contents_alike((char *)one->data + i * one->elsize, (char *)other->data + i * other->elsize,
                                (jl_datatype_t *)jl_tparam0(type), depth))
                return false;
        if (one->flags.hasptr)
            return true;
        if (!one->flags.ptrarray)
            return !memcmp(one->data, other->data, jl_array_len(one) * one->elsize);
        for (size_t i = 0; i < jl_array_len(one); i++)
            if (!alike(jl_array_ptr_ref(one, i), jl_array_ptr_ref(other, i), depth + 1))
                return false;
        return true;
    }
    if (strcmp(jl_symbol_name(type->name->name), "Dict") == 0 && type->name->module == jl_base_module) {
        // slots, keys, vals: what is in an empty slot has no meaning
        auto *slots = (jl_array_t *)jl_fieldref(a, 0), *others = (jl_array_t *)jl_fieldref(b, 0);
        if (jl_array_len(slots) != jl_array_len(others))
            return false;
        for (size_t i = 0; i < jl_array_len(slots); i++) {
            char filled = ((char *)slots->data)[i];
            if (filled != ((char *)others->data)[i])
                return false;
            for (int field = 1; filled == 1 && field <= 2; field++)
                if (!alike(jl_arrayref((jl_array_t *)jl_fieldref(a, field), i),
                           jl_arrayref((jl_array_t *)jl_fieldref(b, field), i), depth + 1))
                    return false;
        }
        return true;
    }
    if (jl_is_cpointer_type((jl_value_t *)type))
        return true;
    return contents_alike((char *)a, (char *)b, type, depth);
}

// Of structs in memory: immutable ones stand inside others, with their pointers.
static bool contents_alike(const char *a, const char *b, jl_datatype_t *type, int depth) {
    if (jl_datatype_nfields(type) == 0)
        return !memcmp(a, b, jl_datatype_size(type));
    for (size_t i = 0; i < jl_datatype_nfields(type); i++) {
        const char *one = a + jl_field_offset(type, i), *other = b + jl_field_offset(type, i);
        jl_value_t *of = jl_field_type(type, i);
        if (jl_is_cpointer_type(of))
            continue;
        bool same = jl_field_isptr(type, i) ? alike(*(jl_value_t **)one, *(jl_value_t **)other, depth + 1)
                    : jl_is_datatype(of)    ? contents_alike(one, other, (jl_datatype_t *)of, depth + 1)
                                            : !memcmp(one, other, jl_field_size(type, i));
        if (!same)
            return false;
    }
    return true;
}

void BindingSnapshot::write_changes(Json &json) const {
    json.open('[');
    for_each([&](jl_module_t *module, jl_binding_t *binding) {
        auto known = before.find(binding);
        if (!binding->value || strchr(jl_symbol_name(binding->name), '#'))
            return;
        if (known != before.end() && known->second.value == binding->value &&
            known->second.constant == (bool)binding->constp)
            return;
        bool is_new = known == before.end() || !known->second.value;
        json.open('{').key("module").string(module_text(module));
        json.key("name").string(jl_symbol_name(binding->name)).key("kind").string(kind_of(binding));
        json.key("new").raw(is_new ? "true" : "false");
        json.key("alike").raw(!is_new && alike(known->second.value, binding->value) ? "true" : "false").close('}');
    });
    json.close(']');
}
