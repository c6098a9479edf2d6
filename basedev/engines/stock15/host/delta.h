// What has to be compiled anew after definitions were evaluated, and its inference.
#pragma once

#include "methods.h"

#include <string>
#include <vector>

// A CodeInstance of Core.Compiler, of a pure method, or of a generator that the edit reaches: what the compiler
// did with it while the image was built can't be found out and undone, so only a full rebuild is right.
struct Obstacle {
    std::string reason;
};

class Delta {
public:
    // Notes which CodeInstances are valid now, before anything is evaluated.
    explicit Delta(const Image &image);

    // Finds the MethodInstances that need native code in `world`, infers them and everything new that they
    // call. Returns what stands in the way of a chained image, if anything does.
    std::vector<Obstacle> collect(size_t world);

    jl_array_t *instances = nullptr;  // Vector{Any} of MethodInstance; rooted by the caller
    size_t invalidated = 0;           // CodeInstances that Julia ended, with or without native code
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
    void find_obstacles(const MethodChanges &changes, std::vector<Obstacle> &obstacles) const;
};
