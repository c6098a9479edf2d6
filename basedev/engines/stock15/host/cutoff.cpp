#include "cutoff.h"

#include "breakpoints.h"

#include <algorithm>

namespace {

const int MOST_ROUNDS = 60;

template <class F> void for_each_instance(jl_array_t *array, const F &visit) {
    for (size_t i = 0; array && i < jl_array_len(array); i++)
        if (auto *instance = (jl_method_instance_t *)jl_array_ptr_ref(array, i))
            visit(instance);
}

template <class F> void for_each_specialization(jl_method_t *method, const F &visit) {
    for (size_t i = 0; i < jl_svec_len(method->specializations); i++)
        if (auto *instance = (jl_method_instance_t *)jl_svecref(method->specializations, i))
            visit(instance);
}

void end(jl_code_instance_t *code, size_t world) {
    code->max_world = world - 1;
    if (code->min_world > code->max_world)
        code->min_world = code->max_world;
}

void unlink(jl_code_instance_t *code) {
    for (jl_code_instance_t **link = &code->def->cache; *link; link = &(*link)->next)
        if (*link == code) {
            *link = code->next;
            if (*link)
                jl_gc_wb(code->def, *link);
            return;
        }
}

}  // namespace

Cutoff::Cutoff(const Image &image) : image(image), missing(missing_methods(image)) {
    for (jl_value_t *object : image.all_of(jl_method_instance_type)) {
        auto *instance = (jl_method_instance_t *)object;
        if (jl_array_t *edges = instance->backedges)
            callers[instance] = edges;
        if (jl_is_method(instance->def.value))
            instances_in[jl_method_table_for(instance->specTypes)].push_back(instance);
    }
    for (jl_value_t *object : image.all_of(jl_code_instance_type))
        if (((jl_code_instance_t *)object)->max_world == ALWAYS)
            valid_before.insert(((jl_code_instance_t *)object)->def);
}

// What Julia did not end does not depend on the edit. What has no result of its own is part of its callers'.
void Cutoff::affect(jl_method_instance_t *instance, bool in_its_own_name) {
    if (!jl_is_method(instance->def.value) || gone.count(instance->def.method) || valid_still(instance))
        return;
    auto known = up_to_date.find(instance);
    if (known != up_to_date.end() && known->second >= in_its_own_name)
        return;
    if (has_result(instance)) {
        queue[instance] |= in_its_own_name;
        auto cycle = cycle_of.find(instance);
        if (cycle != cycle_of.end() && unstable_in.count(cycle->second)) {
            Instances unstable = std::move(unstable_in[cycle->second]);
            unstable_in.erase(cycle->second);
            for (jl_method_instance_t *other : unstable)
                affect(other);
        }
        return;
    }
    Instances next = {instance};
    std::unordered_set<jl_method_instance_t *> seen = {instance};
    while (!next.empty()) {
        jl_method_instance_t *without = next.back();
        next.pop_back();
        for_each_caller(without, [&](jl_method_instance_t *caller) {
            if (has_result(caller) || valid_still(caller))
                affect(caller);
            else if (seen.insert(caller).second)
                next.push_back(caller);
        });
    }
}

void Cutoff::affect_callers(jl_method_instance_t *instance, bool all_call_anew) {
    for_each_caller(instance, [&](jl_method_instance_t *caller) {
        affect(caller);
        if (all_call_anew)
            new_convention.insert(caller);
    });
}

void Cutoff::for_each_caller(jl_method_instance_t *instance,
                             const std::function<void(jl_method_instance_t *)> &visit) const {
    auto found = callers.find(instance);
    if (found != callers.end())
        for_each_instance(found->second, visit);
    if (found == callers.end() || found->second != instance->backedges)
        for_each_instance(instance->backedges, visit);
}

void Cutoff::affect_users_for_constants(jl_method_instance_t *instance, const Dependencies &dependencies) {
    for (jl_method_instance_t *user : dependencies.of_constants_in(instance))
        affect(user, false);
}

// Cycles of the graph of calls among what Julia ended and what has no result: Tarjan's strongly connected components,
// with a stack of its own since the graph is deep.
void Cutoff::find_cycles() {
    struct Visit {
        jl_method_instance_t *instance;
        Instances callers;
        size_t next = 0;
    };
    std::unordered_map<jl_method_instance_t *, std::pair<size_t, size_t>> seen;  // order of discovery, lowest reached
    std::unordered_set<jl_method_instance_t *> open;
    Instances stack;
    std::vector<Visit> visits;
    auto visit = [&](jl_method_instance_t *instance) {
        Visit begun;
        begun.instance = instance;
        for_each_caller(instance, [&](jl_method_instance_t *caller) {
            if (!valid_still(caller))
                begun.callers.push_back(caller);
        });
        seen[instance] = {seen.size(), seen.size()};
        open.insert(instance);
        stack.push_back(instance);
        visits.push_back(std::move(begun));
    };
    for (auto &entry : original) {
        if (seen.count(entry.first))
            continue;
        visit(entry.first);
        while (!visits.empty()) {
            Visit &current = visits.back();
            jl_method_instance_t *instance = current.instance;
            if (current.next < current.callers.size()) {
                jl_method_instance_t *caller = current.callers[current.next++];
                if (!seen.count(caller))
                    visit(caller);
                else if (open.count(caller))
                    seen[instance].second = std::min(seen[instance].second, seen[caller].first);
                continue;
            }
            auto reached = seen[instance];
            visits.pop_back();
            if (!visits.empty()) {
                auto &below = seen[visits.back().instance];
                below.second = std::min(below.second, reached.second);
            }
            if (reached.first != reached.second)
                continue;
            Instances cycle;
            do {
                cycle.push_back(stack.back());
                open.erase(stack.back());
                stack.pop_back();
            } while (cycle.back() != instance);
            if (cycle.size() > 1) {
                for (jl_method_instance_t *member : cycle)
                    cycle_of[member] = cycles.size();
                cycles.push_back(std::move(cycle));
            }
        }
    }
}

void Cutoff::infer(jl_method_instance_t *instance, Dependencies &dependencies, Inference &inference) const {
    inference.infer(instance);
    for (jl_method_instance_t *other : inference.not_cached)
        for (jl_method_instance_t *user : inference.cached)
            dependencies.add(other, user);
}

// Who called a replaced method's instance and did not get its code inlined finds nothing else in the new method's, if its
// answer is the same: he need not be inferred again. His native code calls that of the old one, which can lead on to
// the new one's unless it goes by way of the instance itself.
bool Cutoff::succeed(jl_method_instance_t *instance, jl_method_t *method, Dependencies &dependencies,
                     Inference &inference) {
    jl_code_instance_t *was = result_of(instance, world);
    auto native = image.native.find(was);
    if (!was || (native != image.native.end() && !native->second.specialized) || image.gvar_of.count(instance))
        return false;
    for (jl_code_instance_t *code = instance->cache; code; code = code->next)
        if (image.gvar_of.count(code))
            return false;
    jl_method_instance_t *successor = dispatch(instance->specTypes, world);
    if (!successor || successor->def.method != method || !jl_types_equal(successor->specTypes, instance->specTypes) ||
        !jl_egal((jl_value_t *)successor->sparam_vals, (jl_value_t *)instance->sparam_vals))
        return false;
    infer(successor, dependencies, inference);
    jl_code_instance_t *now = result_of(successor, world);
    if (!now || !same_answer(now, was))
        return false;
    successor_of[instance] = successor;
    if (may_be_inlined(now) || may_be_inlined(was)) {
        affect_callers(instance, false);
        return true;
    }
    for_each_caller(instance, [&](jl_method_instance_t *caller) {
        if (caller != instance)
            jl_method_instance_add_backedge(successor, caller);
    });
    return true;
}

// Code in Julia names instances by their place among its method's literals.
void Cutoff::name_successors() const {
    if (successor_of.empty())
        return;
    for (jl_value_t *object : image.all_of(jl_method_type)) {
        jl_array_t *literals = ((jl_method_t *)object)->roots;
        for (size_t i = 0; literals && i < jl_array_len(literals); i++) {
            auto found = successor_of.find((jl_method_instance_t *)jl_array_ptr_ref(literals, i));
            if (found != successor_of.end() && !gone.count((jl_method_t *)object))
                jl_array_ptr_set(literals, i, found->second);
        }
    }
}

// Whether calls of the one are inferred and compiled as those of the other, as long as the answers are the same.
static bool called_alike(const jl_method_t *a, const jl_method_t *b) {
    auto inlined = [](const jl_method_t *method) {
        return jl_is_code_info(method->source) ? ((jl_code_info_t *)method->source)->inlineable
                                               : jl_ir_flag_inlineable((jl_array_t *)method->source);
    };
    return a->source && b->source && !inlined(a) && !inlined(b) && !a->generator && !b->generator && a->nargs == b->nargs &&
           a->isva == b->isva && a->pure == b->pure && a->called == b->called && a->nospecialize == b->nospecialize &&
           a->nkw == b->nkw && !a->invokes && !a->ccallable && !b->ccallable;
}

// Those who asked about what is not there any more, or would be told of something new.
void Cutoff::begin(const MethodChanges &changes, Dependencies &dependencies, Inference &inference) {
    auto changed = [&](jl_method_instance_t *instance) {
        affect_callers(instance, false);  // another method is another callee: code that calls it is not the same
        affect_users_for_constants(instance, dependencies);
        edited.push_back(instance);
    };
    for (jl_typemap_entry_t *entry : changes.ended) {
        jl_method_t *method = entry->func.method, *next = nullptr;
        for (jl_typemap_entry_t *other : changes.added)
            if (jl_types_equal((jl_value_t *)entry->sig, (jl_value_t *)other->sig) &&
                called_alike(method, other->func.method))
                next = other->func.method;
        for_each_specialization(method, [&](jl_method_instance_t *instance) {
            if (!next || !succeed(instance, next, dependencies, inference))
                return changed(instance);
            affect_users_for_constants(instance, dependencies);
            edited.push_back(instance);
        });
    }
    name_successors();
    std::unordered_map<jl_methtable_t *, std::vector<jl_value_t *>> added;
    for (jl_typemap_entry_t *entry : changes.added)
        added[jl_method_table_for((jl_value_t *)entry->sig)].push_back((jl_value_t *)entry->sig);
    auto meets_new = [](const std::vector<jl_value_t *> &signatures, jl_value_t *types) {
        for (jl_value_t *signature : signatures)
            if (!jl_has_empty_intersection(signature, types))
                return true;
        return false;
    };
    for (auto &table : added)
        for (auto &edge : missing[table.first])
            if (meets_new(table.second, edge.first))
                affect(edge.second);
    for (auto &table : added)
        for (jl_method_instance_t *instance : instances_in[table.first])
            if (!gone.count(instance->def.method) && meets_new(table.second, instance->specTypes))
                changed(instance);
}

// Julia took the edges from what it ended; those of what stays valid are still needed.
void Cutoff::restore_edges() {
    for (auto &entry : callers) {
        jl_method_instance_t *instance = entry.first;
        jl_array_t *added = instance->backedges;
        if (added == entry.second || (jl_is_method(instance->def.value) && gone.count(instance->def.method)))
            continue;
        instance->backedges = entry.second;
        jl_gc_wb(instance, entry.second);
        std::unordered_set<jl_method_instance_t *> known;
        if (added)
            for_each_instance(entry.second, [&](jl_method_instance_t *caller) { known.insert(caller); });
        for_each_instance(added, [&](jl_method_instance_t *caller) {
            if (known.insert(caller).second)
                jl_array_ptr_1d_push(entry.second, (jl_value_t *)caller);
        });
    }
}

// Those that are called before those that call them, as far as there is such an order.
Cutoff::Instances Cutoff::callees_first(const std::unordered_map<jl_method_instance_t *, bool> &batch) const {
    Instances members, order;
    for (auto &entry : batch)
        members.push_back(entry.first);
    std::sort(members.begin(), members.end());
    std::unordered_set<jl_method_instance_t *> seen;
    std::function<void(jl_method_instance_t *)> visit = [&](jl_method_instance_t *instance) {
        if (!batch.count(instance) || !seen.insert(instance).second)
            return;
        for_each_caller(instance, visit);
        order.push_back(instance);
    };
    for (jl_method_instance_t *instance : members)
        visit(instance);
    std::reverse(order.begin(), order.end());
    return order;
}

void Cutoff::round(Dependencies &dependencies, Inference &inference) {
    std::unordered_map<jl_method_instance_t *, bool> batch;
    batch.swap(queue);
    for (auto &entry : batch) {
        jl_code_instance_t *code = result_of(entry.first, world);
        end(code, world);
        last[entry.first] = code;
    }
    infer_all(batch, dependencies, inference);
    for (auto &entry : batch) {
        jl_method_instance_t *instance = entry.first;
        jl_code_instance_t *was = last[instance], *now = result_of(instance, world);
        if (entry.second)
            affect_users_for_constants(instance, dependencies);
        bool answers = now && same_answer(now, was);
        if (!answers || (!same_result(now, was) && (may_be_inlined(now) || may_be_inlined(was)))) {
            affect_callers(instance, !answers);
            changed.insert(instance->def.method);
        }
    }
    up_to_date.clear();
    for (auto &entry : batch) {
        jl_method_instance_t *instance = entry.first;
        jl_code_instance_t *was = last[instance], *now = result_of(instance, world);
        auto found = original.find(instance);
        jl_code_instance_t *first = found == original.end() ? nullptr : found->second;
        if (was != first)
            unlink(was);
        if (first && now && now != first && same_result(now, first) && !new_convention.count(instance)) {
            unlink(now);
            first->max_world = ALWAYS;
        }
    }
}

// Instances that need each other are inferred together, and can get narrower types so than one after the other.
// Where what was edited gives a concrete type, there is no narrower one.
void Cutoff::widen_to_cycles() {
    for (jl_method_instance_t *instance : edited) {
        jl_method_instance_t *now = dispatch(instance->specTypes, world);
        jl_code_instance_t *result = now ? result_of(now, world) : nullptr;
        if (!result || jl_is_concrete_type(result->rettype) || result->rettype == jl_bottom_type)
            continue;
        auto cycle = cycle_of.find(instance);
        if (cycle == cycle_of.end())
            continue;
        affect(now);
        for (jl_method_instance_t *other : cycles[cycle->second])
            affect(other);
    }
    edited.clear();
}

void Cutoff::watch_generators(const MethodChanges &changes) {
    for (jl_typemap_entry_t *entry : changes.added)
        if (entry->func.method->generator && !original.empty())
            generated.insert(entry->func.method);
    if (!generated.empty())
        set_breakpoint(runtime_function("jl_code_for_staged"), false, [this](const Arguments &call) {
            if (!generator_ran && generated.count(((jl_method_instance_t *)call.values[0])->def.method))
                watch_native_code();
            return GO_ON;
        });
}

// What Julia ended is not to run in this process while it is taken for valid.
void Cutoff::watch_native_code() {
    generator_ran = true;
    for (auto &entry : original) {
        jl_code_instance_t *code = entry.second;
        if (!image.native.count(code))
            continue;
        for (void *place : {(void *)code->specptr.fptr, (void *)code->invoke})
            if (place && place != (void *)jl_fptr_args && place != (void *)jl_fptr_sparam &&
                place != (void *)jl_fptr_const_return && place != (void *)jl_fptr_interpret_call)
                set_breakpoint(place, true, [this](const Arguments &) {
                    old_code_ran = true;
                    return GO_ON;
                });
    }
}

bool Cutoff::old_code_was_used() const {
    if (!generator_ran || old_code_ran)
        return old_code_ran;
    for (auto &entry : original)
        if (entry.second->invoke == jl_fptr_const_return && entry.second->max_world != ALWAYS)
            return true;
    return false;
}

void Cutoff::take_back() const {
    for (auto &entry : original)
        while (jl_code_instance_t *code = result_of(entry.first, world))
            end(code, world);
}

std::string Cutoff::run(const std::vector<jl_code_instance_t *> &valid, const MethodChanges &changes,
                        Dependencies &dependencies, Inference &inference) {
    for (jl_typemap_entry_t *entry : changes.ended)
        gone.insert(entry->func.method);
    changed = gone;
    for (jl_code_instance_t *code : valid) {
        if (code->max_world == ALWAYS)
            continue;
        not_valid.insert(code->def);
        if (jl_is_method(code->def->def.value) && !gone.count(code->def->def.method) && code->inferred)
            original[code->def] = code;
    }
    for (jl_typemap_entry_t *entry : changes.added)
        added.push_back(entry->func.method);
    watch_generators(changes);
    restore_edges();
    world = inference.world;
    for (auto &entry : original) {
        jl_code_instance_t *code = entry.second;
        // What evaluating the definitions ran was inferred anew meanwhile.
        code->max_world = world - 1;
        while (jl_code_instance_t *meanwhile = result_of(entry.first, world))
            unlink(meanwhile);
        code->max_world = ALWAYS;
    }
    find_cycles();
    for (jl_method_instance_t *instance : dependencies.unstable) {
        auto cycle = cycle_of.find(instance);
        if (cycle != cycle_of.end())
            unstable_in[cycle->second].push_back(instance);
    }
    begin(changes, dependencies, inference);
    for (int rounds = 0; !queue.empty(); rounds++) {
        if (rounds == MOST_ROUNDS) {
            for (auto &entry : original)
                end(entry.second, world);
            return "early cutoff found no end in " + std::to_string(MOST_ROUNDS) + " rounds";
        }
        round(dependencies, inference);
        if (!rounds)
            widen_to_cycles();
    }
    return "";
}
