// Type inference of one MethodInstance after the other, and what Julia keeps no record of while it infers.
#pragma once

#include "runtime.h"

#include <unordered_set>
#include <vector>

class Inference {
public:
    // In the newest world, which must not change meanwhile.
    explicit Inference(size_t world);

    // Infers an instance unless it is. Whether there is a result now that is valid in the world; a failure is left to
    // run time, as in an ordinary build.
    bool infer(jl_method_instance_t *instance);

    // Of the last call: those whose results were cached (Core.Compiler.cache_result), and those that it went into
    // without caching what it found, for constant arguments or within a recursion. What the latter gave is part of the
    // former's results.
    std::vector<jl_method_instance_t *> cached;
    std::unordered_set<jl_method_instance_t *> not_cached;

    size_t count = 0;  // calls that found something to do
    const size_t world;
};

// While an object of this class lives, it notes whose results are cached, by inference or by who goes without.
class CachedResults {
public:
    CachedResults();
    ~CachedResults();
    std::vector<jl_method_instance_t *> instances;

private:
    CachedResults *const outer;
};

// The result that is valid in `world`, or null.
jl_code_instance_t *result_of(jl_method_instance_t *instance, size_t world);

// Whether who used the one finds nothing else in the other: type and constant, and with them the calling convention.
bool same_answer(const jl_code_instance_t *a, const jl_code_instance_t *b);
// Whether they are the same altogether, code included.
bool same_result(const jl_code_instance_t *a, const jl_code_instance_t *b);
// Whether callers may have the code in theirs.
bool may_be_inlined(const jl_code_instance_t *code);
