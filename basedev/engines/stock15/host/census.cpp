#include "census.h"

#include "breakpoints.h"
#include "digest.h"
#include "evaluate.h"
#include "timings.h"
#include "trees.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <unistd.h>

namespace {

const Statement *evaluated;
const unsigned MOST_SECONDS = 20;  // for one statement
const size_t STATEMENTS_TOGETHER = 1000;  // in one process, where what one compiles serves the others
const double LEAST_SECONDS_TO_COMPILE = 1e-4;
const size_t MOST_GENERATED = 20;  // specializations of one method
const uint32_t IS_METHOD = 1u << 31;  // of a number in the record: a method, not a CodeInstance

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
std::string evaluate_signatures(jl_module_t *module, const Statement &statement, const Trees *trees) {
    return message_of_error([&] {
        jl_value_t *parsed = nullptr, *expanded = nullptr;
        JL_GC_PUSH2(&parsed, &expanded);
        parsed = trees ? trees->of(statement) : parsed_at(statement.file, statement.line, statement.text);
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
    for (jl_value_t *object : image.all_of(jl_code_instance_type))
        codes.push_back((jl_code_instance_t *)object);
    for (jl_value_t *object : image.all_of(jl_method_type)) {
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

std::string Census::result(const Statement &statement, const Trees *trees) const {
    Digest own(statement.module);
    digest = &own;
    evaluated = &statement;
    jl_module_t *module = find_module(image, statement.module);
    std::string error = module ? evaluate_signatures(module, statement, trees) : "no module";
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
                    double begin = now();
                    std::string gave = result(statements[i], nullptr);
                    // what was compiled for this runs unseen the first time
                    bool compiled = now() - begin > LEAST_SECONDS_TO_COMPILE;
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
                                         bool from_last, const Trees *trees) const {
    suspend_effects(image);
    QuietLogging quiet;
    std::vector<std::string> found(statements.size());
    share.each(from_last, [&](size_t i) {
        Interpreting without_compiling;
        found[i] = result(statements[i], trees);
    });
    return found;
}
