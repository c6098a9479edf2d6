#include "census.h"

#include "breakpoints.h"
#include "evaluate.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <set>
#include <unistd.h>
#include <unordered_map>

namespace {

const Statement *evaluated;
const unsigned MOST_SECONDS = 20;  // for one statement
const size_t STATEMENTS_TOGETHER = 1000;  // in one process, where what one compiles serves the others
const double LEAST_SECONDS_TO_COMPILE = 1e-4;
const size_t MOST_GENERATED = 20;  // specializations of one method
const int MOST_DEEP = 2000;  // levels of a value
const size_t DIGITS = 16;  // of a digest in hexadecimal, all 0 of a statement that fails
const uint32_t IS_METHOD = 1u << 31;  // of a number in the record: a method, not a CodeInstance

double seconds() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

// Whether a name is an id of a log message of the statement that is evaluated: its module's name and eight digits.
bool is_log_id(const char *text, size_t length) {
    if (length < 10 || text[length - 9] != '_' || strspn(text + length - 8, "0123456789abcdef") != 8)
        return false;
    std::string module(evaluated->module);
    std::replace(module.begin(), module.end(), '.', '_');
    return module == std::string(text, length - 9);
}

// A digest of values by their contents.
class Digest {
public:
    void bytes(const void *data, size_t size) {
        for (size_t i = 0; i < size; i++)
            hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3;
    }
    void word(const char *text) { bytes(text, strlen(text) + 1); }
    // Names that the compiler makes have counters in them, and ids of log messages depend on those that there are.
    void name(jl_sym_t *symbol) {
        const char *text = jl_symbol_name(symbol);
        bool counted = strchr(text, '#') != nullptr;
        size_t length = strlen(text);
        if (is_log_id(text, length))
            length -= 8;
        for (size_t i = 0; i < length; i++)
            if (!(counted && text[i] >= '0' && text[i] <= '9'))
                bytes(text + i, 1);
        bytes("", 1);
    }
    void value(jl_value_t *object, int depth = 0) {
        if (!object)
            return word("null");
        if (depth > MOST_DEEP)
            return word("deep");
        auto *type = (jl_datatype_t *)jl_typeof(object);
        if (jl_is_symbol(object))
            return name((jl_sym_t *)object);
        if (jl_is_type(object) || jl_is_typevar(object))
            return text(type_text(object));
        text(type_text_of(type));
        if (jl_is_module(object))
            return text(module_text((jl_module_t *)object));
        if (jl_is_string(object))
            return bytes(jl_string_data(object), jl_string_len(object));
        if (jl_is_method(object) || jl_is_method_instance(object) || jl_is_task(object) ||
            jl_is_cpointer_type((jl_value_t *)type))
            return;
        if (jl_is_linenode(object))
            return;  // lines are told by themselves
        if (jl_is_svec(object)) {
            for (size_t i = 0; i < jl_svec_len(object); i++)
                value(jl_svecref(object, i), depth + 1);
            return;
        }
        if (jl_is_code_info(object)) {
            auto *code = (jl_code_info_t *)object;
            value((jl_value_t *)code->slotnames, depth + 1);
            for (uint8_t flag : {code->inlineable, code->propagate_inbounds, code->pure})
                bytes(&flag, 1);
            return value((jl_value_t *)code->code, depth + 1);
        }
        if (jl_is_array(object)) {
            auto *array = (jl_array_t *)object;
            size_t length = jl_array_len(array);
            for (size_t i = 0; i < jl_array_ndims(array); i++)
                bytes(&jl_array_dim(array, i), sizeof length);
            auto *element = (jl_datatype_t *)jl_tparam0(type);
            if (jl_array_isbitsunion(array))
                bytes(jl_array_typetagdata(array), length);
            if (!array->flags.ptrarray && !array->flags.hasptr)
                return bytes(array->data, length * array->elsize);
            for (size_t i = 0; array->flags.hasptr && i < length; i++)
                contents((char *)array->data + i * array->elsize, element, depth);
            if (array->flags.hasptr)
                return;
            for (size_t i = 0; i < length; i++)
                value(jl_array_ptr_ref(array, i), depth + 1);
            return;
        }
        if (!strcmp(jl_symbol_name(type->name->name), "Dict") && type->name->module == jl_base_module)
            return table(object, depth);
        if (type->mutabl && !seen.insert(object).second)
            return word("again");
        contents((char *)object, type, depth);
    }
    // Of code, which may be deep.
    void tree(jl_value_t *code) {
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
    // Of a struct in memory: immutable ones stand inside others, with their pointers.
    void contents(const char *memory, jl_datatype_t *type, int depth) {
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
    std::string digits() const {
        char digits[DIGITS + 1];
        snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
        return digits;
    }

private:
    uint64_t hash = 0xcbf29ce484222325;
    std::set<jl_value_t *> seen;
    std::unordered_map<jl_datatype_t *, std::string> type_texts;

    // Types as they print: a type of the same name is the same, and its own definition tells when it is not.
    const std::string &type_text_of(jl_datatype_t *type) {
        std::string &known = type_texts[type];
        if (known.empty())
            known = type_text((jl_value_t *)type);
        return known;
    }
    void text(const std::string &shown) {
        bool counted = shown.find('#') != std::string::npos;
        for (char c : shown)
            if (!(counted && c >= '0' && c <= '9'))
                bytes(&c, 1);
        bytes("", 1);
    }
    static bool is_in(const char *pointer, jl_value_t *string) {
        return pointer && string && jl_string_data(string) <= pointer &&
               pointer <= jl_string_data(string) + jl_string_len(string);
    }
    void table(jl_value_t *object, int depth) {
        auto *slots = (jl_array_t *)jl_fieldref(object, 0);
        for (size_t i = 0; i < jl_array_len(slots); i++)
            for (int field = 1; ((char *)slots->data)[i] == 1 && field <= 2; field++)
                value(jl_arrayref((jl_array_t *)jl_fieldref(object, field), i), depth + 1);
    }
};

// Whether the statement that is evaluated is of the module that owns the binding, or of one around it.
bool in_own_module(jl_binding_t *binding) {
    static auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    if (binding->owner == compiler && !binding->constp)
        return false;  // a counter of inference
    return binding->owner && module_text(binding->owner).compare(0, evaluated->module.size(), evaluated->module) == 0;
}

// Whether a method is one of a closure that was made just now.
bool is_new_function(const Image &image, jl_svec_t *definition) {
    auto *types = (jl_svec_t *)jl_svecref(definition, 0);
    jl_value_t *called = jl_svec_len(types) ? unwrap(jl_svecref(types, 0)) : nullptr;
    return called && jl_is_datatype(called) && !image.contains(((jl_datatype_t *)called)->name);
}

Digest *digest;  // of what the statement under evaluation gives

// A function of the runtime through which evaluating has an effect, and what the digest is told of it.
struct Effect {
    const char *function;
    void (*note)(void *const *arguments);
};

void note_name_of_module(void *const *arguments) {
    digest->value((jl_value_t *)arguments[1]);
    digest->name((jl_sym_t *)arguments[2]);
}

const Effect EVALUATION = {"jl_toplevel_eval_in", [](void *const *arguments) {
                               digest->tree((jl_value_t *)arguments[1]);
                           }};
const Effect DEFINITION = {"jl_method_def", [](void *const *arguments) {
                               digest->value((jl_value_t *)jl_svecref(arguments[0], 0));
                               digest->value((jl_value_t *)arguments[1]);
                           }};
const Effect ASSIGNMENT = {"jl_checked_assignment", [](void *const *arguments) {
                               digest->name(((jl_binding_t *)arguments[0])->name);
                               digest->value((jl_value_t *)arguments[1]);
                           }};
const Effect CONSTANT = {"jl_declare_constant", [](void *const *) {}};
const Effect OF_MODULES[] = {
    {"jl_module_export", [](void *const *arguments) { digest->name((jl_sym_t *)arguments[1]); }},
    {"jl_module_using", [](void *const *arguments) { digest->value((jl_value_t *)arguments[1]); }},
    {"jl_module_use", note_name_of_module},
    {"jl_module_import", note_name_of_module},
};

void watch(const Effect &effect, const std::function<Continuation(const Arguments &)> &then) {
    set_breakpoint(runtime_function(effect.function), false, [&effect, then](const Arguments &call) {
        // The types of closures have names too, which what follows needs.
        if ((&effect == &ASSIGNMENT || &effect == &CONSTANT) &&
            strchr(jl_symbol_name(((jl_binding_t *)call.values[0])->name), '#'))
            return GO_ON;
        // What a function that is called sets is its own affair: a cache, or one of inference's counters.
        if (&effect == &ASSIGNMENT && !in_own_module((jl_binding_t *)call.values[0]))
            return GO_ON;
        digest->word(effect.function);
        effect.note(call.values);
        return then(call);
    });
}

// From now on, in this process, evaluating binds no name and defines no method: it adds to `digest` what it would have.
void suspend_effects(const Image &image) {
    auto suspend = [](const Arguments &) { return RETURN_AT_ONCE; };
    watch(EVALUATION, [](const Arguments &) { return GO_ON; });
    watch(DEFINITION, [&image](const Arguments &call) {
        return is_new_function(image, (jl_svec_t *)call.values[0]) ? GO_ON : RETURN_AT_ONCE;
    });
    watch(ASSIGNMENT, suspend);
    watch(CONSTANT, suspend);
    for (const Effect &effect : OF_MODULES)
        watch(effect, suspend);
}

bool has_head(jl_value_t *code, const char *head) {
    return jl_is_expr(code) && !strcmp(jl_symbol_name(((jl_expr_t *)code)->head), head);
}

// Takes the bodies from functions that are defined at top level, `code` being there.
void take_out_bodies(jl_value_t *code) {
    if (has_head(code, "block"))
        for (size_t i = 0; i < jl_expr_nargs(code); i++)
            take_out_bodies(jl_exprarg(code, i));
    bool defines = (has_head(code, "function") || has_head(code, "macro")) && jl_expr_nargs(code) == 2;
    if (has_head(code, "=")) {
        jl_value_t *what = jl_exprarg(code, 0);
        while (has_head(what, "where") || has_head(what, "::"))
            what = jl_exprarg(what, 0);
        defines = has_head(what, "call");
    }
    if (defines)
        jl_exprargset(code, 1, jl_nothing);
}

// Evaluates a statement without the bodies of functions: of what macros make of them, which adds to `digest`, lowering
// makes the same in any case, and takes long. Returns an empty string, or Julia's message about the error.
std::string evaluate_signatures(jl_module_t *module, const Statement &statement) {
    std::string placed((size_t)(statement.line - 1), '\n');
    placed += statement.text;
    return message_of_error([&] {
        jl_value_t *parsed = nullptr, *expanded = nullptr;
        JL_GC_PUSH2(&parsed, &expanded);
        parsed = jl_parse_input_line(placed.data(), placed.size(), statement.file.data(), statement.file.size());
        bool several = has_head(parsed, "toplevel");
        for (size_t i = 0; i < (several ? jl_expr_nargs(parsed) : 1); i++) {
            expanded = jl_macroexpand(several ? jl_exprarg(parsed, i) : parsed, module);
            digest->tree(expanded);
            take_out_bodies(expanded);
            jl_toplevel_eval(module, expanded);
        }
        JL_GC_POP();
    });
}

void write_number(FILE *file, uint32_t number) {
    if (fwrite(&number, sizeof number, 1, file) != 1)
        fail("cannot write the census");
}

}  // namespace

Census::Census(const Image &image) : image(image) {
    for (jl_value_t *object : image.objects_of(jl_code_instance_type))
        codes.push_back((jl_code_instance_t *)object);
    for (jl_value_t *object : image.objects_of(jl_method_type)) {
        auto *method = (jl_method_t *)object;
        number_of_method[method] = (uint32_t)methods.size();
        methods.push_back(method);
        if (method->generator)
            generated.push_back(method);
    }
}

void Census::generate(const Statement &statement, const std::function<void(jl_value_t *)> &made) const {
    long last = statement.line + std::count(statement.text.begin(), statement.text.end(), '\n');
    for (jl_method_t *method : generated) {
        if (method->line < statement.line || last < method->line || statement.file != jl_symbol_name(method->file) ||
            module_text(method->module) != statement.module)
            continue;
        // In a rebuild the generator sees what is defined before it, as the newest definitions are here.
        method->primary_world = jl_get_world_counter();
        size_t calls = 0;
        for (size_t i = 0; i < jl_svec_len(method->specializations) && calls < MOST_GENERATED; i++) {
            auto *instance = (jl_method_instance_t *)jl_svecref(method->specializations, i);
            if (!instance || !image.contains(instance))
                continue;
            calls++;
            jl_value_t *volatile code = nullptr;
            JL_TRY {
                code = (jl_value_t *)jl_code_for_staged(instance);
            }
            JL_CATCH {
                code = jl_typeof(jl_current_exception());
            }
            made(code);
        }
    }
}

std::vector<jl_method_t *> Census::never_generated() const {
    std::vector<jl_method_t *> found;
    for (jl_method_t *method : generated) {
        bool called = false;
        for (size_t i = 0; i < jl_svec_len(method->specializations); i++)
            called |= jl_svecref(method->specializations, i) != nullptr;
        if (!called)
            found.push_back(method);
    }
    return found;
}

std::string Census::result(const Statement &statement) const {
    Digest own;
    digest = &own;
    evaluated = &statement;
    jl_module_t *module = find_module(image, statement.module);
    std::string error = module ? evaluate_signatures(module, statement) : "no module";
    generate(statement, [&](jl_value_t *code) { own.value(code); });
    return error.empty() ? own.digits() : "error: " + error;
}

std::vector<std::string> Census::take(const std::vector<Statement> &statements, const std::string &path) {
    std::string record = in_child("taking the census", [&] {
        std::set<uint32_t> ran;
        auto note = [&ran](uint32_t number) {
            return [&ran, number](const Arguments &) {
                ran.insert(number);
                return GO_ON;
            };
        };
        auto entries = [&](uint32_t number) {
            std::vector<void *> own;
            for (void *entry : {(void *)codes[number]->specptr.fptr, (void *)codes[number]->invoke})
                if (entry && entry != (void *)jl_fptr_args && entry != (void *)jl_fptr_sparam &&
                    entry != (void *)jl_fptr_const_return && entry != (void *)jl_fptr_interpret_call)
                    own.push_back(entry);
            return own;
        };
        auto arm = [&](uint32_t number) {
            for (void *entry : entries(number))
                set_breakpoint(entry, true, note(number));
        };
        std::vector<uint32_t> without_code;
        for (uint32_t i = 0; i < codes.size(); i++) {
            if (image.native.count(codes[i]))
                arm(i);
            else if (jl_is_method(codes[i]->def->def.value) && !codes[i]->invoke)
                without_code.push_back(i);
        }
        // Specializations that the image does not have: their methods are told.
        set_breakpoint(runtime_function("jl_specializations_get_linfo"), false, [&](const Arguments &call) {
            auto known = number_of_method.find((jl_method_t *)call.values[0]);
            if (known != number_of_method.end())
                ran.insert(known->second | IS_METHOD);
            return GO_ON;
        });
        suspend_effects(image);

        std::string all;
        for (size_t first = 0; first < statements.size();) {
            size_t last = first;
            while (last < statements.size() &&
                   (last - first < STATEMENTS_TOGETHER || statements[last].file == statements[last - 1].file))
                last++;
            all += in_child("evaluating the statements of " + statements[first].file, [&] {
                signal(SIGALRM, [](int) {
                    fail(evaluated->file + ":" + std::to_string(evaluated->line) + " takes too long to evaluate again");
                });
                QuietLogging quiet;
                std::string found;
                auto add = [&](uint32_t number) { found.append((const char *)&number, sizeof number); };
                for (size_t i = first; i < last; i++) {
                    ran.clear();
                    alarm(MOST_SECONDS);
                    double begin = seconds();
                    std::string gave = result(statements[i]);
                    // what was compiled for this runs unseen the first time
                    bool compiled = seconds() - begin > LEAST_SECONDS_TO_COMPILE;
                    for (size_t j = 0; compiled && j < without_code.size();) {
                        jl_code_instance_t *code = codes[without_code[j]];
                        if (!code->invoke) {
                            j++;
                            continue;
                        }
                        ran.insert(without_code[j]);
                        arm(without_code[j]);
                        without_code[j] = without_code.back();
                        without_code.pop_back();
                    }
                    bool failed = gave.compare(0, 7, "error: ") == 0;
                    found += failed ? std::string(DIGITS, '0') : gave;
                    add((uint32_t)i);
                    add((uint32_t)ran.size());
                    for (uint32_t number : ran) {
                        add(number);
                        if (!(number & IS_METHOD))
                            for (void *entry : entries(number))
                                set_breakpoint_again(entry);
                    }
                }
                alarm(0);
                return found;
            });
            first = last;
        }
        return all;
    });
    // Many statements run the same: each such set stands in the file once.
    std::map<std::vector<uint32_t>, uint32_t> sets;
    std::vector<uint32_t> set_of(statements.size());
    std::vector<std::string> gave(statements.size());
    for (size_t at = 0; at < record.size();) {
        auto *numbers = (const uint32_t *)(record.data() + at + DIGITS);
        uint32_t statement = numbers[0], count = numbers[1];
        gave[statement] = record.substr(at, DIGITS);
        std::vector<uint32_t> ran(numbers + 2, numbers + 2 + count);
        set_of[statement] = sets.emplace(std::move(ran), (uint32_t)sets.size()).first->second;
        at += DIGITS + (2 + count) * sizeof(uint32_t);
    }
    FILE *file = fopen(path.c_str(), "wb");
    if (!file)
        fail("cannot write " + path);
    write_number(file, (uint32_t)sets.size());
    std::vector<const std::vector<uint32_t> *> in_order(sets.size());
    for (auto &entry : sets)
        in_order[entry.second] = &entry.first;
    for (auto *ran : in_order) {
        write_number(file, (uint32_t)ran->size());
        for (uint32_t number : *ran)
            write_number(file, number);
    }
    write_number(file, (uint32_t)set_of.size());
    for (uint32_t number : set_of)
        write_number(file, number);
    if (fclose(file))
        fail("cannot write " + path);
    return gave;
}

std::vector<uint32_t> Census::affected(const std::string &path, size_t since) const {
    const MethodChanges &changes = method_changes(image, since);
    size_t world = jl_get_world_counter();
    std::vector<bool> other_code(codes.size()), other_method(methods.size());
    for (size_t i = 0; i < methods.size(); i++)
        other_method[i] = changes.tables.count(jl_method_table_for(methods[i]->sig)) != 0;
    for (size_t i = 0; i < codes.size(); i++) {
        jl_method_instance_t *instance = codes[i]->def;
        if (!jl_is_method(instance->def.value))
            continue;
        bool ended = codes[i]->max_world != ALWAYS && codes[i]->max_world >= since;
        other_code[i] = ended || (changes.tables.count(jl_method_table_for(instance->specTypes)) &&
                                  dispatch(instance->specTypes, world) != instance);
        // what the image has no code for may have this in its own
        if (other_code[i])
            other_method[number_of_method.at(instance->def.method)] = true;
    }

    FILE *file = fopen(path.c_str(), "rb");
    if (!file)
        fail("cannot read " + path);
    std::vector<uint32_t> numbers;
    uint32_t chunk[1 << 14];
    for (size_t got; (got = fread(chunk, sizeof(uint32_t), 1 << 14, file)) > 0;)
        numbers.insert(numbers.end(), chunk, chunk + got);
    fclose(file);
    size_t at = 0;
    std::vector<bool> affected_set(numbers[at++]);
    for (size_t i = 0; i < affected_set.size(); i++)
        for (uint32_t left = numbers[at++]; left; left--) {
            uint32_t number = numbers[at++];
            if (number & IS_METHOD ? other_method[number & ~IS_METHOD] : other_code[number])
                affected_set[i] = true;
        }
    std::vector<uint32_t> found;
    uint32_t count = numbers[at++];
    for (uint32_t i = 0; i < count; i++)
        if (affected_set[numbers[at + i]])
            found.push_back(i);
    return found;
}

std::vector<std::string> Census::results(const std::vector<Statement> &statements, const FromBothEnds &share,
                                         bool from_last) const {
    suspend_effects(image);
    QuietLogging quiet;
    std::vector<std::string> found(statements.size());
    share.each(from_last, [&](size_t i) {
        Interpreting without_compiling;
        found[i] = result(statements[i]);
    });
    return found;
}
