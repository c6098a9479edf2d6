#include "steps.h"

#include "bindings.h"
#include "evaluate.h"
#include "logging.h"
#include "methods.h"

Steps::Steps(const Image &image, const std::string &libraries)
    : image(image), libraries(libraries), started_in(enter_newest_world()), docstrings(image) {}

void Steps::perform(const std::vector<Step> &steps, Json &json) {
    QuietLogging quiet;
    StandardLibraries found(libraries);
    BindingSnapshot names(image);
    size_t world_before = jl_get_world_counter();
    std::vector<size_t> world_after;
    json.key("errors").open('[');
    for (size_t i = 0; i < steps.size(); i++) {
        effects.begin_step(i);
        std::string error = perform(steps[i]);
        world_after.push_back(jl_get_world_counter());
        if (!error.empty())
            json.open('{').key("step").number((long long)i).key("message").string(error).close('}');
    }
    json.close(']');
    lines.settle(image);
    docstrings.settle();
    write_methods(json, world_before, world_after);
    json.key("names");
    names.write_changes(json);
}

// Returns an empty string, or Julia's message about the error.
std::string Steps::perform(const Step &step) {
    if (step.kind == Step::MOVE) {
        lines.move(step.file, step.line, step.to, step.by);
        docstrings.move(step.file, step.line, step.to, step.by);
        return "";
    }
    if (step.kind == Step::UNLOG) {
        free_log_ids(image, step.file, step.line, step.to);
        return "";
    }
    lines.settle(image);
    jl_module_t *module = find_module(image, step.module);
    if (!module)
        return "there is no module " + step.module;
    if (step.kind == Step::EVALUATE) {
        Interpreting without_compiling;
        return evaluate(module, step.file, step.line, step.text);
    }
    if (step.kind == Step::UNDOCUMENT) {
        docstrings.forget(module, step.file, step.line, step.to);
        return "";
    }
    if (step.kind == Step::INCLUDE) {
        IncludedFiles().add(module, step.file, step.text);
        return "";
    }
    if (step.kind == Step::EXCLUDE) {
        IncludedFiles().remove(module, step.file);
        return "";
    }
    jl_sym_t *name = jl_symbol(step.file.c_str());
    if (step.kind == Step::UNBIND) {
        keep_alive(unbind(module, name));
        return "";
    }
    if (step.kind == Step::UNEXPORT) {
        unexport(module, name);
        return "";
    }
    return end_method(module, name, step.text);
}

std::string Steps::end_method(jl_module_t *module, jl_sym_t *name, const std::string &signature) {
    jl_methtable_t *table = nullptr;
    jl_method_t *method = nullptr;
    for_each_method(image, [&](jl_methtable_t *candidate, jl_typemap_entry_t *entry) {
        if (jl_is_method(entry->func.value) && entry->func.method->name == name &&
            entry->max_world == ALWAYS && entry->func.method->module == module &&
            type_text((jl_value_t *)entry->sig) == signature) {
            table = candidate;
            method = entry->func.method;
        }
    });
    if (!method)
        return "there is no method " + signature;
    jl_method_table_disable(table, method);
    enter_newest_world();
    return "";
}

// Native code that is kept may have a slot for a value that nothing else refers to any more: the image must
// have it. It hangs where nobody sees it, among the literals of a method.
void Steps::keep_alive(jl_value_t *value) {
    if (!value)
        return;
    static jl_method_t *keeper = nullptr;
    if (!keeper)
        for (jl_value_t *candidate : image.all_of(jl_method_type))
            if (!keeper && ((jl_method_t *)candidate)->roots)
                keeper = (jl_method_t *)candidate;
    JL_GC_PUSH1(&value);
    jl_array_ptr_1d_push(keeper->roots, value);
    JL_GC_POP();
}

static bool has_method(jl_methtable_t *table) {
    bool found = false;
    for_each_method_in(table, [&](jl_typemap_entry_t *entry) { found |= entry->max_world == ALWAYS; });
    return found;
}

void Steps::write_methods(Json &json, size_t world_before, const std::vector<size_t> &world_after) const {
    const MethodChanges &changes = method_changes(image, started_in);
    json.key("defined").open('[');
    write_defined(json, world_before, world_after);
    json.close(']').key("ended").open('[');
    for (jl_typemap_entry_t *entry : changes.ended) {
        json.open('{');
        write_method(json, entry);
        json.close('}');
    }
    json.close(']').key("emptied").open('[');
    for (jl_methtable_t *table : changes.tables)
        if (!has_method(table)) {
            json.open('{').key("module").string(module_text(table->module));
            json.key("name").string(jl_symbol_name(table->name)).close('}');
        }
    json.close(']');
}

void Steps::write_defined(Json &json, size_t world_before, const std::vector<size_t> &world_after) const {
    const MethodChanges &changes = method_changes(image, started_in);
    for (jl_typemap_entry_t *entry : changes.added) {
        size_t world = entry->func.method->primary_world;
        if (world <= world_before)
            continue;
        size_t step = 0;
        while (step + 1 < world_after.size() && world_after[step] < world)
            step++;
        json.open('{').key("step").number((long long)step);
        write_method(json, entry);
        json.key("replaces");
        jl_typemap_entry_t *replaced = nullptr;
        for (jl_typemap_entry_t *old : changes.ended)
            if (jl_types_equal((jl_value_t *)old->sig, (jl_value_t *)entry->sig))
                replaced = old;
        if (replaced) {
            json.open('{');
            write_method(json, replaced);
            json.key("also").open('[');
            for (jl_typemap_entry_t *other : changes.replaced_in_base)
                if (jl_types_equal((jl_value_t *)other->sig, (jl_value_t *)entry->sig)) {
                    json.open('{');
                    write_method(json, other);
                    json.close('}');
                }
            json.close(']').close('}');
        }
        else {
            json.raw("null");
        }
        json.close('}');
    }
}
