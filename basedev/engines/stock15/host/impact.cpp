// Sources: src/gf.c (jl_method_table_insert, jl_method_table_disable, invalidate_backedges) and base/reflection.jl
// (isambiguous) of Julia 1.5.3.
#include "impact.h"

static void write_place(Json &json, jl_method_t *method) {
    json.key("module").string(module_text(method->module)).key("name").string(jl_symbol_name(method->name));
    json.key("file").string(jl_symbol_name(method->file)).key("line").number(method->line);
}

static size_t code_size(const std::vector<jl_code_instance_t *> &codes) {
    size_t size = 0;
    for (jl_code_instance_t *code : codes)
        if (code->inferred && jl_typeis(code->inferred, jl_array_uint8_type))
            size += jl_array_len(code->inferred);
    return size;
}

Impact::Impact(const Image &image) : image(image), missing(missing_methods(image)) {
    for (jl_value_t *object : image.all_of(jl_code_instance_type))
        if (((jl_code_instance_t *)object)->max_world == ALWAYS)
            valid.push_back((jl_code_instance_t *)object);
    for (jl_value_t *object : image.all_of(jl_method_instance_type)) {
        auto *instance = (jl_method_instance_t *)object;
        for (size_t i = 0; instance->backedges && i < jl_array_len(instance->backedges); i++)
            if (auto *caller = (jl_method_instance_t *)jl_array_ptr_ref(instance->backedges, i))
                callers[instance].push_back(caller);
    }
}

// What is valid still does not depend on the edit. What has no result of its own is part of its callers'.
void Impact::reach(jl_method_instance_t *instance, size_t change, long caller_of) {
    auto known = number_of.find(instance);
    if (known != number_of.end()) {
        nodes[known->second].ways++;
        return;
    }
    auto found = ended.find(instance);
    if (found == ended.end())
        for (jl_code_instance_t *code = instance->cache; code; code = code->next)
            if (code->max_world == ALWAYS)
                return;
    number_of[instance] = nodes.size();
    Node node;
    node.instance = instance;
    node.change = change;
    node.caller_of = caller_of;
    node.ways = 1;
    if (found != ended.end())
        node.codes = found->second;
    nodes.push_back(std::move(node));
}

void Impact::reach_callers(jl_method_instance_t *instance, size_t change, long caller_of) {
    auto found = callers.find(instance);
    if (found != callers.end())
        for (jl_method_instance_t *caller : found->second)
            reach(caller, change, caller_of);
}

// Who called what is not there any more, found no method where there is one now, or would come to another.
void Impact::begin(const MethodChanges &changes) {
    std::unordered_map<jl_typemap_entry_t *, size_t> change_of;
    auto same = [](jl_typemap_entry_t *a, jl_typemap_entry_t *b) {
        return jl_types_equal((jl_value_t *)a->sig, (jl_value_t *)b->sig);
    };
    for (jl_typemap_entry_t *entry : changes.ended) {
        Change change;
        change.ended = entry;
        change.added = nullptr;
        for (jl_typemap_entry_t *added : changes.added)
            if (same(added, entry))
                change.added = added;
        if (change.added)
            change_of[change.added] = roots.size();
        else
            only_ended.push_back(entry);
        roots.push_back(std::move(change));
    }
    for (jl_typemap_entry_t *entry : changes.added)
        if (entry->max_world == ALWAYS && change_of.emplace(entry, roots.size()).second) {
            only_added.push_back(entry);
            Change change;
            change.ended = nullptr;
            change.added = entry;
            roots.push_back(std::move(change));
        }
    for (size_t number = 0; number < roots.size(); number++) {
        Change &change = roots[number];
        if (change.ended) {
            jl_svec_t *specializations = change.ended->func.method->specializations;
            for (size_t i = 0; i < jl_svec_len(specializations); i++) {
                auto *instance = (jl_method_instance_t *)jl_svecref(specializations, i);
                if (!instance)
                    continue;
                change.specializations++;
                for (jl_code_instance_t *code = instance->cache; code; code = code->next)
                    change.native += image.native.count(code);
                reach_callers(instance, number, -1);
            }
            continue;
        }
        auto *signature = (jl_value_t *)change.added->sig;
        jl_methtable_t *table = jl_method_table_for(signature);
        for (auto &edge : missing[table])
            if (!jl_has_empty_intersection(signature, edge.first))
                reach(edge.second, number, -1);
        for (jl_value_t *object : image.all_of(jl_method_instance_type)) {
            auto *instance = (jl_method_instance_t *)object;
            if (jl_is_method(instance->def.value) && jl_method_table_for(instance->specTypes) == table &&
                !jl_has_empty_intersection(signature, instance->specTypes)) {
                change.met.push_back(instance);
                reach_callers(instance, number, -1);
            }
        }
    }
}

void Impact::follow(const MethodChanges &changes) {
    for (jl_code_instance_t *code : valid)
        if (code->max_world != ALWAYS)
            ended[code->def].push_back(code);
    begin(changes);
    for (size_t next = 0; next < nodes.size(); next++)  // grows meanwhile
        reach_callers(nodes[next].instance, nodes[next].change, (long)next);
    for (size_t i = nodes.size(); i-- > 0;) {
        nodes[i].leads_on |= !nodes[i].codes.empty();
        if (nodes[i].leads_on && nodes[i].caller_of >= 0)
            nodes[(size_t)nodes[i].caller_of].leads_on = true;
    }
    std::unordered_map<jl_method_t *, size_t> gone;
    for (size_t number = 0; number < roots.size(); number++)
        if (roots[number].ended)
            gone[roots[number].ended->func.method] = number;
    for (jl_code_instance_t *code : valid) {
        if (code->max_world == ALWAYS || number_of.count(code->def))
            continue;
        auto of = jl_is_method(code->def->def.value) ? gone.find(code->def->def.method) : gone.end();
        (of == gone.end() ? elsewhere : roots[of->second].own).push_back(code);
    }
}

void Impact::write(Json &json, const std::vector<jl_method_instance_t *> &compiled, size_t world) {
    std::unordered_set<jl_method_instance_t *> anew(compiled.begin(), compiled.end());
    auto changed = [](const Codes &codes) {
        size_t count = 0;
        for (jl_code_instance_t *code : codes)
            count += code->max_world != ALWAYS;
        return count;
    };
    auto write_counts = [&](const Codes &codes) {
        size_t native = 0;
        for (jl_code_instance_t *code : codes)
            native += image.native.count(code);
        json.key("ended").number((long long)codes.size()).key("changed").number((long long)changed(codes));
        json.key("native").number((long long)native).key("size").number((long long)code_size(codes));
    };
    json.key("changes").open('[');
    for (Change &change : roots) {
        jl_typemap_entry_t *entry = change.added ? change.added : change.ended;
        json.open('{').key("kind").string(!change.ended ? "added" : change.added ? "modified" : "deleted");
        json.key("types").string(type_text((jl_value_t *)entry->sig));
        write_place(json, entry->func.method);
        json.key("specializations").number((long long)change.specializations);
        json.key("specialized").number((long long)change.native);
        write_counts(change.own);
        json.key("overtaken").open('[');  // specializations whose calls go to the new method now
        for (jl_method_instance_t *instance : change.met) {
            jl_method_instance_t *reached = dispatch(instance->specTypes, world);
            if (!reached || reached->def.method != change.added->func.method)
                continue;
            json.open('{').key("types").string(type_text(instance->specTypes));
            json.key("of").string(type_text(instance->def.method->sig));
            write_place(json, instance->def.method);
            json.close('}');
        }
        json.close(']').close('}');
    }
    json.close(']').key("nodes").open('[');
    std::vector<long> number(nodes.size(), -1);
    long written = 0;
    for (size_t i = 0; i < nodes.size(); i++) {
        const Node &node = nodes[i];
        if (!node.leads_on)
            continue;
        number[i] = written++;
        json.open('{').key("change").number((long long)node.change);
        json.key("callee").number(node.caller_of < 0 ? -1 : number[(size_t)node.caller_of]);
        json.key("types").string(type_text(node.instance->specTypes));
        if (jl_is_method(node.instance->def.value))
            write_place(json, node.instance->def.method);
        json.key("ways").number((long long)node.ways);
        json.key("compiled").number((long long)anew.count(node.instance));
        write_counts(node.codes);
        json.close('}');
    }
    json.close(']').key("elsewhere").open('[');
    for (jl_code_instance_t *code : elsewhere)
        json.string(type_text(code->def->specTypes));
    json.close(']').key("compiled").number((long long)anew.size()).key("ambiguities").open('[');
    write_ambiguities(json);
    json.close(']');
}

// Pairs of methods that are ambiguous now: a new one with another, and two between which one that is gone decided.
void Impact::write_ambiguities(Json &json) const {
    auto *asked = (jl_function_t *)jl_get_global(jl_base_module, jl_symbol("isambiguous"));
    auto ambiguous = [&](jl_typemap_entry_t *a, jl_typemap_entry_t *b) {
        jl_value_t *answer = jl_call2(asked, (jl_value_t *)a->func.method, (jl_value_t *)b->func.method);
        return answer == jl_true;
    };
    auto tell = [&](jl_typemap_entry_t *a, jl_typemap_entry_t *b) {
        json.open('[');
        for (jl_typemap_entry_t *entry : {a, b}) {
            json.open('{');
            write_method(json, entry);
            json.close('}');
        }
        json.close(']');
    };
    std::unordered_map<jl_methtable_t *, std::vector<jl_typemap_entry_t *>> others;
    if (!only_added.empty() || !only_ended.empty())
        for_each_method(image, [&](jl_methtable_t *table, jl_typemap_entry_t *entry) {
            if (jl_is_method(entry->func.value) && entry->max_world == ALWAYS)
                others[table].push_back(entry);
        });
    std::unordered_set<jl_typemap_entry_t *> seen;
    for (jl_typemap_entry_t *added : only_added) {
        seen.insert(added);
        for (jl_typemap_entry_t *other : others[jl_method_table_for((jl_value_t *)added->sig)])
            if (!seen.count(other) && !jl_has_empty_intersection((jl_value_t *)added->sig, (jl_value_t *)other->sig) &&
                ambiguous(added, other))
                tell(added, other);
    }
    for (jl_typemap_entry_t *gone : only_ended) {
        auto *signature = (jl_value_t *)gone->sig;
        std::vector<jl_typemap_entry_t *> met;
        for (jl_typemap_entry_t *other : others[jl_method_table_for(signature)])
            if (!seen.count(other) && !jl_has_empty_intersection(signature, (jl_value_t *)other->sig))
                met.push_back(other);
        for (size_t i = 0; i < met.size(); i++)
            for (size_t k = i + 1; k < met.size(); k++)
                if (jl_subtype(jl_type_intersection((jl_value_t *)met[i]->sig, (jl_value_t *)met[k]->sig), signature) &&
                    ambiguous(met[i], met[k]))
                    tell(met[i], met[k]);
    }
}
