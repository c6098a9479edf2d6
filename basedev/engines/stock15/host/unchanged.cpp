// The half of early cutoff's inference that a second process does. Who has not got the edited code in his own mostly
// comes out the same; the process finds out who does, and this one takes them as they were. Others it infers itself:
// a new result can't be had from another process.
#include "breakpoints.h"
#include "cutoff.h"
#include "garbage.h"

#include <algorithm>
#include <cstring>

namespace {

const size_t WORTH_A_PROCESS = 4;  // instances, each of which takes milliseconds to a fraction of a second

void for_each_line(jl_method_t *method, jl_value_t *code, const std::function<void(jl_sym_t *, int64_t)> &visit) {
    if (!code || !jl_typeis(code, jl_array_uint8_type))
        return;
    jl_value_t *source = (jl_value_t *)jl_uncompress_ir(method, nullptr, (jl_array_t *)code);
    JL_GC_PUSH1(&source);
    auto *table = (jl_array_t *)((jl_code_info_t *)source)->linetable;
    for (size_t i = 0; i < jl_array_len(table); i++) {
        struct LineInfoNode {
            jl_value_t *method;
            jl_sym_t *file;
            int64_t line, inlined_at;
        } *node = (LineInfoNode *)jl_array_ptr_ref(table, i);
        visit(node->file, node->line);
    }
    JL_GC_POP();
}

// Where the code of a method is.
struct Place {
    jl_sym_t *file;
    int64_t first, last;
};

Place place_of(jl_method_t *method) {
    Place place = {method->file, method->line, method->line};
    for_each_line(method, method->source, [&](jl_sym_t *file, int64_t line) {
        if (file == place.file)
            place.last = std::max(place.last, line);
    });
    return place;
}

bool has_inlined(const jl_code_instance_t *code, const std::vector<Place> &places) {
    bool found = false;
    for_each_line(code->def->def.method, code->inferred, [&](jl_sym_t *file, int64_t line) {
        for (const Place &place : places)
            found |= file == place.file && place.first <= line && line <= place.last;
    });
    return found;
}

// What inferring an instance tells Julia about others, whose callers are to be known when they are edited.
struct Edges {
    std::vector<void *> called;   // instances
    std::vector<void *> missing;  // in turn a method table, and argument types for which it had no method
};

using EdgesOf = std::unordered_map<void *, Edges>;

void note_edges(EdgesOf &edges) {
    set_breakpoint(runtime_function("jl_method_instance_add_backedge"), false, [&edges](const Arguments &call) {
        edges[call.values[1]].called.push_back(call.values[0]);
        return GO_ON;
    });
    set_breakpoint(runtime_function("jl_method_table_add_backedge"), false, [&edges](const Arguments &call) {
        auto &missing = edges[call.values[2]].missing;
        missing.insert(missing.end(), {call.values[0], call.values[1]});
        return GO_ON;
    });
}

void write(std::string &text, const std::vector<void *> &objects) {
    size_t count = objects.size();
    text.append((const char *)&count, sizeof count);
    text.append((const char *)objects.data(), count * sizeof(void *));
}

std::vector<void *> read(const char *&at) {
    size_t count;
    memcpy(&count, at, sizeof count);
    std::vector<void *> objects(count);
    memcpy(objects.data(), at + sizeof count, count * sizeof(void *));
    at += sizeof count + count * sizeof(void *);
    return objects;
}

}  // namespace

void Cutoff::infer_all(const std::unordered_map<jl_method_instance_t *, bool> &batch, Dependencies &dependencies,
                       Inference &inference) {
    auto infer_here = [&](jl_method_instance_t *instance) {
        infer(instance, dependencies, inference);
        // What they asked about is as it will be after the batch, unless they need each other: others of it that had no
        // result yet were inferred on the way.
        for (jl_method_instance_t *inferred : inference.cached)
            if (batch.count(inferred) && (inference.cached.size() == 1 || !cycle_of.count(inferred)))
                up_to_date[inferred] = batch.at(inferred);
    };
    std::vector<Place> places;
    for (jl_method_t *method : changed)
        places.push_back(place_of(method));
    Instances order = callees_first(batch), own, likely_same;
    for (jl_method_instance_t *instance : order) {
        auto found = original.find(instance);
        // Where instances need each other, results can depend on with which of them inference begins.
        bool shared = found != original.end() && found->second == last[instance] && !new_convention.count(instance) &&
                      !cycle_of.count(instance) && !has_inlined(found->second, places);
        (shared ? likely_same : own).push_back(instance);
    }
    if (likely_same.size() < WORTH_A_PROCESS) {
        for (jl_method_instance_t *instance : order)
            infer_here(instance);
        return;
    }
    // The other process begins with what takes longest, so that neither has to wait long for the other in the end.
    auto read = dependencies.code_read_for(likely_same);
    std::stable_sort(likely_same.begin(), likely_same.end(), [&](jl_method_instance_t *a, jl_method_instance_t *b) {
        return read.at(a) > read.at(b);
    });
    for (jl_method_instance_t *instance : edited)
        dispatch(instance->specTypes, world);  // is there for both processes from now on
    FromBothEnds share(likely_same.size());
    accept_unchanged(in_child("inferring what the edit invalidated",
                              [&] { return find_unchanged(likely_same, share, inference); },
                              [&] {
                                  for (jl_method_instance_t *instance : own)
                                      infer_here(instance);
                                  share.each(true, [&](size_t i) { infer_here(likely_same[i]); });
                              }),
                     batch, dependencies, inference);
    for (jl_method_instance_t *instance : likely_same)
        infer_here(instance);
}

// For the second process: how often it inferred, and for each that comes out the same, it (twice, where it
// has asked all), what it called, methods that it asked for in vain, and those in which it went with constants. What is not the
// first process's too has no name there, and who needs it is left to that.
std::string Cutoff::find_unchanged(const Instances &instances, const FromBothEnds &share, Inference &inference) const {
    put_off_collection();
    EdgesOf edges;
    note_edges(edges);
    std::unordered_set<void *> known;
    for (jl_method_t *method : added)
        for (size_t i = 0; i < jl_svec_len(method->specializations); i++)
            known.insert(jl_svecref(method->specializations, i));
    auto all_known = [&](const std::vector<void *> &objects) {
        return std::all_of(objects.begin(), objects.end(),
                           [&](void *object) { return image.contains(object) || known.count(object); });
    };
    // Types are made anew at each turn: those that the image has for the same caller stand for them.
    auto find_in_image = [&](std::vector<void *> &missing_in, jl_method_instance_t *caller) {
        for (size_t i = 0; i < missing_in.size(); i += 2) {
            auto in_table = missing.find((jl_methtable_t *)missing_in[i]);
            if (in_table == missing.end())
                continue;
            for (auto &edge : in_table->second)
                if (edge.second == caller && jl_types_equal(edge.first, (jl_value_t *)missing_in[i + 1]))
                    missing_in[i + 1] = edge.first;
        }
    };
    std::unordered_set<jl_method_instance_t *> wanted(instances.begin(), instances.end());
    bool met_cycle = false;  // which comes out as it was entered, and the first process may enter it elsewhere
    size_t counted = inference.count;
    std::string found;
    share.each(false, [&](size_t i) {
        edges.clear();
        inference.infer(instances[i]);
        std::vector<void *> asked(inference.not_cached.begin(), inference.not_cached.end());
        for (jl_method_instance_t *instance : inference.cached)
            met_cycle |= cycle_of.count(instance) != 0;
        for (jl_method_instance_t *instance : inference.cached) {
            Edges &own = edges[instance];
            find_in_image(own.missing, instance);
            jl_code_instance_t *now = result_of(instance, world);
            if (!wanted.count(instance) || !now || !same_result(now, last.at(instance)) || !all_known(own.called) ||
                !all_known(own.missing) || !all_known(asked))
                continue;
            write(found, {met_cycle ? nullptr : instance, instance});
            write(found, own.called);
            write(found, own.missing);
            write(found, asked);
        }
    });
    counted = inference.count - counted;
    if (generator_ran)
        found.clear();
    return std::string((const char *)&counted, sizeof counted) + found;
}

void Cutoff::accept_unchanged(const std::string &found, const std::unordered_map<jl_method_instance_t *, bool> &batch,
                              Dependencies &dependencies, Inference &inference) {
    const char *at = found.data(), *end = at + found.size();
    size_t counted;
    memcpy(&counted, at, sizeof counted);
    inference.count += counted;
    for (at += sizeof counted; at < end;) {
        auto head = read(at);
        auto *instance = (jl_method_instance_t *)head.back();
        auto called = read(at), missing_in = read(at), asked = read(at);
        if (has_result(instance))
            continue;  // inferred here too, on the way to another
        last[instance]->max_world = ALWAYS;
        if (head.front())
            up_to_date[instance] = batch.at(instance);
        for (void *callee : called)
            jl_method_instance_add_backedge((jl_method_instance_t *)callee, instance);
        for (size_t i = 0; i < missing_in.size(); i += 2)
            jl_method_table_add_backedge((jl_methtable_t *)missing_in[i], (jl_value_t *)missing_in[i + 1],
                                         (jl_value_t *)instance);
        for (void *other : asked)
            dependencies.add((jl_method_instance_t *)other, instance);
    }
}
