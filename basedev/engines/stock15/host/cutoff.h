// Early cutoff: of what Julia ended after an edit, finds what really changed, and makes the rest valid again.
//
// Julia ends the results of everything that depends on the edit, through any number of calls. What a result is
// depends on less: on the method, and on the answers that inference got where it asked about others. So those who
// asked about what was edited are inferred again, in the new world; who gets the same result is as good as untouched,
// and those who asked about him need not be looked at. docs/early-cutoff.md argues why that is the same.
#pragma once

#include "child.h"
#include "dependencies.h"
#include "inference.h"
#include "methods.h"

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

class Cutoff {
public:
    // Notes the edges that there are, before anything is evaluated: Julia drops those that it has followed.
    explicit Cutoff(const Image &image);

    // `valid` are the results that were valid before the edit. What has really changed stays ended and has a new
    // result. Returns why everything that Julia ended has to stay so instead; empty if it need not.
    std::string run(const std::vector<jl_code_instance_t *> &valid, const MethodChanges &changes,
                    Dependencies &dependencies, Inference &inference);

    // For a process that only runs code from now on: ends again what Julia ended. Native code in this process still calls
    // what was compiled before the edit; only in an image that is what was compiled after it.
    void take_back() const;

    // Whether a generator that the edit defines was called by inference, and may have run what was compiled before it.
    bool old_code_was_used() const;

    // Whether a result that the instance had, with or without native code, was compared with a new one.
    bool compared(jl_method_instance_t *instance) const {
        return last.count(instance) != 0 && original.count(instance) != 0;
    }

    // Native code that calls replaced methods is kept: it has to come to their successors.
    const Successors &successors() const { return successor_of; }

private:
    using Instances = std::vector<jl_method_instance_t *>;

    // Whether Julia did not end its result.
    bool valid_still(jl_method_instance_t *instance) const {
        return valid_before.count(instance) && !not_valid.count(instance);
    }

    const Image &image;
    std::unordered_map<jl_method_instance_t *, jl_array_t *> callers;
    MissingMethods missing;
    std::unordered_map<jl_methtable_t *, Instances> instances_in;  // those of methods
    std::unordered_set<jl_method_instance_t *> valid_before;

    std::unordered_map<jl_method_instance_t *, jl_code_instance_t *> original;  // results that Julia ended
    std::unordered_set<jl_method_instance_t *> not_valid;                       // instances whose results it ended
    std::unordered_set<jl_method_t *> gone;
    std::vector<jl_method_t *> added;
    std::unordered_set<jl_method_t *> changed;  // those that are gone, and those whose code came out otherwise
    std::unordered_map<jl_method_instance_t *, jl_code_instance_t *> last;  // results as last seen
    Instances edited;  // and those that do not get all calls any more that they got
    size_t world = 0;
    std::vector<Instances> cycles;  // of instances that need each other
    std::unordered_map<jl_method_instance_t *, size_t> cycle_of;
    std::unordered_map<size_t, Instances> unstable_in;  // of a cycle of which nothing was affected yet
    std::unordered_set<jl_method_instance_t *> new_convention;  // call what is called in another way now
    // To be inferred again: whether an answer that it got in its own name has changed, or only something that it
    // found out for constant arguments of others.
    std::unordered_map<jl_method_instance_t *, bool> queue;

    // Those of the present round that need not be inferred again for another of it, with what they have in the queue.
    std::unordered_map<jl_method_instance_t *, bool> up_to_date;

    Successors successor_of;
    std::unordered_set<jl_method_t *> generated;  // methods with generators that were added
    bool generator_ran = false, old_code_ran = false;

    void affect(jl_method_instance_t *instance, bool in_its_own_name = true);
    bool has_result(jl_method_instance_t *instance) const { return result_of(instance, world) != nullptr; }
    void for_each_caller(jl_method_instance_t *instance,
                         const std::function<void(jl_method_instance_t *)> &visit) const;
    void affect_callers(jl_method_instance_t *instance, bool all_call_anew);
    void affect_users_for_constants(jl_method_instance_t *instance, const Dependencies &dependencies);
    void infer(jl_method_instance_t *instance, Dependencies &dependencies, Inference &inference) const;
    bool succeed(jl_method_instance_t *instance, jl_method_t *method, Dependencies &dependencies, Inference &inference);
    void name_successors() const;
    void begin(const MethodChanges &changes, Dependencies &dependencies, Inference &inference);
    void find_cycles();
    Instances callees_first(const std::unordered_map<jl_method_instance_t *, bool> &batch) const;
    void watch_generators(const MethodChanges &changes);
    void watch_native_code();
    void restore_edges();
    void widen_to_cycles();
    void round(Dependencies &dependencies, Inference &inference);
    void infer_all(const std::unordered_map<jl_method_instance_t *, bool> &batch, Dependencies &dependencies,
                   Inference &inference);
    std::string find_unchanged(const Instances &instances, const FromBothEnds &share, Inference &inference) const;
    void accept_unchanged(const std::string &found, const std::unordered_map<jl_method_instance_t *, bool> &batch,
                          Dependencies &dependencies, Inference &inference);
};
