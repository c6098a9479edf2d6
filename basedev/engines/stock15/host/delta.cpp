#include "delta.h"

#include "child.h"

static jl_methtable_t *table_of(jl_method_instance_t *instance) {
    return jl_method_table_for(instance->specTypes);
}

Delta::Delta(const Image &image) : image(image), cutoff(image), since(jl_get_world_counter()) {
    for (jl_code_instance_t *code : image.order)
        if (code->max_world == ALWAYS)
            valid.push_back(code);
    for (jl_value_t *code : image.all_of(jl_code_instance_type))
        if (((jl_code_instance_t *)code)->max_world == ALWAYS)
            valid_inferred.push_back((jl_code_instance_t *)code);
}

void Delta::list(jl_method_instance_t *instance) {
    if (listed.insert(instance).second)
        instances.push_back(instance);
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

void Delta::list_invalidated(const MethodChanges &changes, size_t world, bool only_compiler) {
    for (jl_code_instance_t *code : valid) {
        jl_method_instance_t *instance = code->def;
        if (only_compiler && !(jl_is_method(instance->def.value) && belongs_to_compiler(instance->def.method->module)))
            continue;
        bool ended = code->max_world != ALWAYS, touched = changes.tables.count(table_of(instance)) != 0;
        if (ended && (!touched || cutoff.compared(instance)))
            list(instance);
        if (!touched)
            continue;
        // Redefining a method ends its callers' code but not its own (jl_method_table_insert), so ask whether
        // a call still comes here.
        jl_method_instance_t *reached = dispatch(instance->specTypes, world);
        if (reached == instance ? ended : reached != nullptr)
            list(reached);
    }
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
            if (!instance || listed.count(instance) || cutoff.compared(instance))
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

static std::string method_name(jl_method_t *method) {
    return module_text(method->module) + "." + jl_symbol_name(method->name);
}

// What an argument of this type can have been in the base image, if that can be told: `Type{X}` is X, a singleton type
// its instance; any type at all stands for every type of plain data without parameters that the image has (with
// them there are 6,585, too many for pairs).
static bool possible_arguments(jl_value_t *type, const std::vector<jl_value_t *> &plain_types,
                               std::vector<jl_value_t *> &arguments) {
    if (jl_is_type_type(type) && !jl_is_typevar(jl_tparam0(type)))
        arguments.push_back(jl_tparam0(type));
    else if (jl_is_datatype(type) && ((jl_datatype_t *)type)->instance)
        arguments.push_back(((jl_datatype_t *)type)->instance);
    else if (type == (jl_value_t *)jl_any_type || jl_is_type_type(unwrap(type)) ||
             type == (jl_value_t *)jl_datatype_type)
        arguments = plain_types;
    else
        return false;
    return true;
}

static jl_value_t *call_in_world(const std::vector<jl_value_t *> &call, size_t world) {
    jl_value_t *volatile result = nullptr;
    size_t before = jl_get_ptls_states()->world_age;
    jl_get_ptls_states()->world_age = world;
    JL_TRY {
        result = jl_apply((jl_value_t **)call.data(), (uint32_t)call.size());
    }
    JL_CATCH {
        result = nullptr;  // throwing is an answer too
    }
    jl_get_ptls_states()->world_age = before;
    return result;
}

const size_t MOST_CALLS = 100000;  // of one method that are worth comparing

std::string Delta::changed_pure_result(const std::vector<jl_method_instance_t *> &pure, size_t world) const {
    if (pure.empty())
        return "";
    return in_child("comparing the results of @pure methods", [&]() -> std::string {
        jl_gc_enable(0);
        std::vector<jl_value_t *> plain_types;
        for (jl_value_t *object : image.all_of(jl_datatype_type)) {
            auto *type = (jl_datatype_t *)object;
            if (type->isconcretetype && type->isbitstype && type->size > 0 && jl_svec_len(type->parameters) == 0)
                plain_types.push_back(object);
        }
        for (jl_method_instance_t *instance : pure) {
            std::string name = method_name(instance->def.method);
            std::string unknown = name + " is @pure and depends on the edit; what calls of it gave while the base image "
                                         "was built can't be checked";
            std::vector<std::vector<jl_value_t *>> arguments(jl_nparams(instance->specTypes));
            size_t calls = 1;
            for (size_t i = 0; i < arguments.size(); i++) {
                if (!possible_arguments(jl_tparam(instance->specTypes, i), plain_types, arguments[i]))
                    return unknown;
                calls *= arguments[i].size();
            }
            if (calls > MOST_CALLS)
                return unknown;
            std::vector<jl_value_t *> call(arguments.size());
            for (size_t n = 0; n < calls; n++) {
                size_t rest = n;
                for (size_t i = 0; i < call.size(); i++) {
                    call[i] = arguments[i][rest % arguments[i].size()];
                    rest /= arguments[i].size();
                }
                jl_value_t *then = call_in_world(call, since), *now = call_in_world(call, world);
                if (then != now && !(then && now && jl_egal(then, now)))
                    return name + " is @pure and gives another result after the edit: results of the old one are all "
                                  "over the base image";
            }
        }
        return "";
    });
}

// What was compiled depends on Core.Compiler and on the results of @pure methods, and keeps no record of that.
std::string Delta::why_no_code_can_be_kept(size_t world) const {
    const MethodChanges &changes = method_changes(image, since);
    std::vector<jl_method_instance_t *> pure;
    for (jl_typemap_entry_t *entry : changes.ended) {
        jl_method_t *method = entry->func.method;
        jl_svec_t *specializations = method->specializations;
        for (size_t i = 0; i < jl_svec_len(specializations); i++) {
            auto *instance = (jl_method_instance_t *)jl_svecref(specializations, i);
            if (instance && instance->cache && belongs_to_compiler(method->module))
                return "Core.Compiler itself uses " + method_name(method);
            if (instance && method->pure)
                pure.push_back(instance);
        }
    }
    for (jl_code_instance_t *code : valid_inferred) {
        if (code->max_world == ALWAYS || !jl_is_method(code->def->def.value))
            continue;
        jl_method_t *method = code->def->def.method;
        if (belongs_to_compiler(method->module))
            return "Core.Compiler itself uses what was edited, in " + method_name(method);
        if (method->pure)
            pure.push_back(code->def);
    }
    return changed_pure_result(pure, world);
}

// Inference goes on with the code that it has, in the world of the revision, while all code ends with that world.
void Delta::end_all_code() {
    // What the edit ended of Core.Compiler is inferred by the compiler of the base image: it can't infer itself.
    size_t last = enter_newest_world();
    list_invalidated(method_changes(image, since), last, true);
    infer_listed(last);
    instances.clear();
    listed.clear();
    set_inference_world();
    for_each_specialization([&](jl_method_instance_t *instance) {
        for (jl_code_instance_t *code = instance->cache; code; code = code->next)
            if (code->max_world == ALWAYS)
                code->max_world = last;
    });
}

void Delta::forget_ended_code() {
    set_inference_world();
    for_each_specialization([&](jl_method_instance_t *instance) {
        for (jl_code_instance_t **link = &instance->cache; *link;) {
            if ((*link)->max_world == ALWAYS) {
                link = &(*link)->next;
                continue;
            }
            *link = (*link)->next;
            if (*link)
                jl_gc_wb(instance, *link);
        }
    });
}

// Inference runs in the world that is the newest now; definitions from now on are in later ones.
void Delta::set_inference_world() {
    enter_newest_world();
    auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    jl_set_typeinf_func(jl_get_global(compiler, jl_symbol("typeinf_ext")));
    enter_newest_world();
}

// Of methods with code in Julia, which built-in functions do not have.
void Delta::for_each_specialization(const std::function<void(jl_method_instance_t *)> &visit) const {
    std::unordered_set<jl_method_instance_t *> seen;
    auto visit_once = [&](jl_value_t *object) {
        auto *instance = (jl_method_instance_t *)object;
        if (!instance || !seen.insert(instance).second || !jl_is_method(instance->def.value))
            return;
        if (instance->def.method->source || instance->def.method->generator)
            visit(instance);
    };
    for (jl_value_t *object : image.all_of(jl_method_instance_type))
        visit_once(object);
    for_each_method(image, [&](jl_methtable_t *, jl_typemap_entry_t *entry) {
        jl_svec_t *specializations = jl_is_method(entry->func.value) ? entry->func.method->specializations : nullptr;
        for (size_t i = 0; specializations && i < jl_svec_len(specializations); i++)
            visit_once(jl_svecref(specializations, i));
    });
}

size_t Delta::invalidated() const {
    size_t count = 0;
    for (jl_code_instance_t *code : valid_inferred)
        count += code->max_world != ALWAYS;
    return count;
}

void Delta::infer_listed(size_t world) {
    Inference inference(world);
    for (size_t done = 0; done < instances.size();) {
        size_t next = instances.size();
        for (; done < next; done++)
            inference.infer(instances[done]);
        list_new(world);
    }
    inferred += inference.count;
}

void Delta::cut_off(size_t world, Dependencies &dependencies) {
    Inference inference(world);
    no_cutoff_reason = cutoff.run(valid_inferred, method_changes(image, since), dependencies, inference);
    inferred += inference.count;
}

void Delta::collect(size_t world) {
    list_invalidated(method_changes(image, since), world);
    infer_listed(world);
}
