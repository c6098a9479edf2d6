// What has to be compiled anew after definitions were evaluated, and its inference.
#pragma once

#include "cutoff.h"

#include <string>
#include <vector>

class Delta {
public:
    // Notes which CodeInstances are valid now, before anything is evaluated.
    explicit Delta(const Image &image);

    // CodeInstances that Julia ended since, with or without native code.
    size_t invalidated() const;
    // Why native code of the image can't be kept, although Julia's own rule did not end it. Empty if it can.
    std::string why_no_code_can_be_kept(size_t world) const;
    // Ends all code, so that `collect` infers everything anew, with Core.Compiler as it is now.
    void end_all_code();
    // Forgets ended code, and has inference run in the newest world: the state for the image. Nothing may be
    // evaluated any more.
    void forget_ended_code();
    // Early cutoff: makes valid again what Julia ended and the definitions do not really change. The dependencies
    // are those of the base image.
    void cut_off(size_t world, Dependencies &dependencies);
    // Finds the MethodInstances that need native code in `world`, infers them and everything new that they call.
    void collect(size_t world);

    std::vector<jl_method_instance_t *> instances;  // those that need native code
    bool old_code_was_used() const { return cutoff.old_code_was_used(); }
    void take_back_cutoff() const { cutoff.take_back(); }
    const Successors &successors() const { return cutoff.successors(); }
    size_t inferred = 0;              // calls of inference
    std::string no_cutoff_reason;     // why everything that Julia ended is compiled anew

private:
    const Image &image;
    Cutoff cutoff;
    size_t since;
    std::vector<jl_code_instance_t *> valid;         // native code
    std::vector<jl_code_instance_t *> valid_inferred;  // all
    std::unordered_set<jl_method_instance_t *> listed;

    void set_inference_world();
    void for_each_specialization(const std::function<void(jl_method_instance_t *)> &visit) const;
    void list(jl_method_instance_t *instance);
    void list_invalidated(const MethodChanges &changes, size_t world, bool only_compiler = false);
    void infer_listed(size_t world);
    void list_new(size_t world);
    // Calls of @pure methods were evaluated while code was inferred, and leave no trace but their results. Whether
    // these methods, for the arguments that they were called with, still give the results of the base image.
    // Empty if so, else the reason why not.
    std::string changed_pure_result(const std::vector<jl_method_instance_t *> &pure, size_t world) const;
};
