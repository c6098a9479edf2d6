// What has to be compiled anew after definitions were evaluated, and its inference.
#pragma once

#include "methods.h"

#include <string>
#include <vector>

class Delta {
public:
    // Notes which CodeInstances are valid now, before anything is evaluated.
    explicit Delta(const Image &image);

    // CodeInstances that Julia ended since, with or without native code.
    size_t invalidated() const;
    // What stands in the way of a chained image of what was evaluated, if anything does.
    std::vector<std::string> obstacles(size_t world) const;
    // Finds the MethodInstances that need native code in `world`, infers them and everything new that they call.
    void collect(size_t world);

    jl_array_t *instances = nullptr;  // Vector{Any} of MethodInstance; rooted by the caller
    size_t inferred = 0;              // MethodInstances inferred anew because they had native code

private:
    const Image &image;
    size_t since;
    std::vector<jl_code_instance_t *> valid;         // native code
    std::vector<jl_code_instance_t *> valid_inferred;  // all
    std::unordered_set<jl_method_instance_t *> listed;

    void list(jl_method_instance_t *instance);
    void list_invalidated(const MethodChanges &changes, size_t world);
    void list_new(size_t world);
    void infer(size_t from, size_t world);
    // Calls of @pure methods were evaluated while code was inferred, and leave no trace but their results. Whether
    // these methods, for the arguments that they were called with, still give the results of the base image.
    // Empty if so, else the reason why not.
    std::string changed_pure_result(const std::vector<jl_method_instance_t *> &pure, size_t world) const;
};
