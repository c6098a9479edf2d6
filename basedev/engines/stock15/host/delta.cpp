#include "delta.h"

static jl_methtable_t *table_of(jl_method_instance_t *instance) {
    return jl_method_table_for(instance->specTypes);
}

Delta::Delta(const Image &image) : image(image), since(jl_get_world_counter()) {
    for (jl_code_instance_t *code : image.order)
        if (code->max_world == ALWAYS)
            valid.push_back(code);
    for (jl_value_t *code : image.objects_of(jl_code_instance_type))
        if (((jl_code_instance_t *)code)->max_world == ALWAYS)
            valid_inferred.push_back((jl_code_instance_t *)code);
}

void Delta::list(jl_method_instance_t *instance) {
    if (listed.insert(instance).second)
        jl_array_ptr_1d_push(instances, (jl_value_t *)instance);
}

// The specialization that a call with these argument types reaches in `world`, or null.
static jl_method_instance_t *dispatch(jl_value_t *types, size_t world) {
    size_t min_valid = 0, max_valid = ALWAYS;
    jl_value_t *volatile found = jl_nothing;
    JL_TRY {
        found = jl_get_spec_lambda((jl_tupletype_t *)types, world, &min_valid, &max_valid);
    }
    JL_CATCH {
        found = jl_nothing;  // ambiguous now: there is nothing to compile
    }
    return found == jl_nothing ? nullptr : (jl_method_instance_t *)found;
}

void Delta::list_invalidated(const MethodChanges &changes, size_t world) {
    for (jl_code_instance_t *code : valid) {
        jl_method_instance_t *instance = code->def;
        if (!changes.tables.count(table_of(instance))) {
            if (code->max_world != ALWAYS)
                list(instance);
            continue;
        }
        // Redefining a method ends its callers' code but not its own (jl_method_table_insert), so ask whether
        // a call still comes here.
        jl_method_instance_t *reached = dispatch(instance->specTypes, world);
        if (reached == instance ? code->max_world != ALWAYS : reached != nullptr)
            list(reached);
    }
}

static void call_inference(jl_value_t **call) {
    JL_TRY {
        jl_call_in_typeinf_world(call, 3);
    }
    JL_CATCH {
        // left to run time, as in an ordinary build
    }
}

// `Core.Compiler.typeinf_ext(instance, world)`, which leaves its result in the instance's cache.
void Delta::infer(size_t from, size_t world) {
    jl_value_t **call;
    JL_GC_PUSHARGS(call, 3);
    auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    call[0] = jl_get_global(compiler, jl_symbol("typeinf_ext"));
    call[2] = jl_box_uint64(world);
    for (size_t i = from; i < jl_array_len(instances); i++) {
        auto *instance = (jl_method_instance_t *)jl_array_ptr_ref(instances, i);
        if (jl_rettype_inferred(instance, world, world) != jl_nothing)
            continue;
        call[1] = (jl_value_t *)instance;
        instance->inInference = 1;
        call_inference(call);
        instance->inInference = 0;
        inferred++;
    }
    JL_GC_POP();
}

// What inference met for the first time and the ordinary build would compile too (precompile.c,
// precompile_enq_specialization_): inferred, not inlined everywhere, no constant.
void Delta::list_new(size_t world) {
    for_each_method(image, [&](jl_methtable_t *, jl_typemap_entry_t *entry) {
        if (!jl_is_method(entry->func.value) || entry->max_world < world)
            return;
        jl_svec_t *specializations = entry->func.method->specializations;
        for (size_t i = 0; i < jl_svec_len(specializations); i++) {
            auto *instance = (jl_method_instance_t *)jl_svecref(specializations, i);
            if (!instance || listed.count(instance))
                continue;
            for (jl_code_instance_t *code = instance->cache; code; code = code->next) {
                if (image.contains(code) || code->max_world < world || code->invoke == jl_fptr_const_return ||
                    !code->inferred || code->inferred == jl_nothing)
                    continue;
                auto *source = (jl_array_t *)code->inferred;
                if (!jl_ir_flag_inferred(source) || jl_ir_flag_inlineable(source))
                    continue;
                jl_method_instance_t *compiled = instance;
                if (!jl_isa_compileable_sig((jl_tupletype_t *)instance->specTypes, instance->def.method))
                    compiled = dispatch(instance->specTypes, world);
                if (compiled)
                    list(compiled);
                break;
            }
        }
    });
}

static bool belongs_to_compiler(jl_module_t *module) {
    static auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    for (; module; module = module->parent) {
        if (module == compiler)
            return true;
        if (module->parent == module)
            return false;
    }
    return false;
}

static std::string method_name(jl_method_t *method) {
    return module_text(method->module) + "." + jl_symbol_name(method->name);
}

void Delta::find_obstacles(const MethodChanges &changes, std::vector<Obstacle> &obstacles) const {
    auto add = [&](const std::string &reason) { obstacles.push_back({reason}); };
    auto has_code = [](jl_method_t *method) {
        for (size_t i = 0; i < jl_svec_len(method->specializations); i++) {
            auto *instance = (jl_method_instance_t *)jl_svecref(method->specializations, i);
            if (instance && instance->cache)
                return true;
        }
        return false;
    };
    auto check = [&](jl_method_t *method) {
        const char *name = jl_symbol_name(method->name);
        if (method->pure)
            add(method_name(method) + " is @pure: calls of it were evaluated while the base image was built");
        if (name[0] == '@')
            add(method_name(method) + " is a macro: what it expanded to is all over the base image");
    };
    for (jl_typemap_entry_t *entry : changes.added)
        check(entry->func.method);
    for (jl_typemap_entry_t *entry : changes.ended) {
        check(entry->func.method);
        if (belongs_to_compiler(entry->func.method->module) && has_code(entry->func.method))
            add("Core.Compiler itself uses " + method_name(entry->func.method));
    }
    for (jl_code_instance_t *code : valid_inferred) {
        jl_value_t *definition = code->def->def.value;
        if (code->max_world == ALWAYS || !jl_is_method(definition))
            continue;
        auto *method = (jl_method_t *)definition;
        if (belongs_to_compiler(method->module))
            add("Core.Compiler itself uses what was edited, in " + method_name(method));
        else if (method->pure)
            add(method_name(method) + " is @pure and uses what was edited: calls of it were evaluated while the "
                                      "base image was built");
        else
            continue;
        return;  // one is enough
    }
}

std::vector<Obstacle> Delta::collect(size_t world) {
    std::vector<Obstacle> obstacles;
    for (jl_code_instance_t *code : valid_inferred)
        invalidated += code->max_world != ALWAYS;
    MethodChanges changes = method_changes(image, since);
    find_obstacles(changes, obstacles);
    if (!obstacles.empty())
        return obstacles;
    list_invalidated(changes, world);
    size_t done = 0;
    while (done < jl_array_len(instances)) {
        size_t next = jl_array_len(instances);
        infer(done, world);
        done = next;
        list_new(world);
    }
    return obstacles;
}
