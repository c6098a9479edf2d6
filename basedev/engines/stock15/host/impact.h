// What an edit invalidates and through which calls: the graph along which Julia ends results, from the methods that
// changed to whoever depends on them.
#pragma once

#include "methods.h"

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

class Impact {
public:
    // Notes what is valid and who called whom, before anything is evaluated: Julia drops the edges that it has followed.
    explicit Impact(const Image &image);

    // After evaluating, and before anything that Julia ended is made valid again: follows the edges. Each instance is
    // reached by as few calls as can be.
    void follow(const MethodChanges &changes);

    // {"changes": [...], "nodes": [...], "ambiguities": [[signature, signature], ...]}, where a node that stands still
    // ended has really changed. `compiled` are the instances that get new native code. May evaluate code of Base: the
    // process is to be thrown away.
    void write(Json &json, const std::vector<jl_method_instance_t *> &compiled, size_t world);

private:
    using Instances = std::vector<jl_method_instance_t *>;
    using Codes = std::vector<jl_code_instance_t *>;

    // A method that is not what it was, from which Julia began.
    struct Change {
        jl_typemap_entry_t *ended, *added;  // either may be null
        Codes own;                          // results of the method itself that Julia ended
        size_t specializations = 0, native = 0;  // that the ended method had, and those with native code
        Instances met;                           // of other methods, with types that the added method takes
    };
    struct Node {
        jl_method_instance_t *instance;
        size_t change;
        long caller_of;   // the node that it calls, or -1 for the change itself
        size_t ways = 0;  // calls of what was ended or changed
        Codes codes;      // that Julia ended; none if it is only a part of its callers
        bool leads_on = false;
    };

    const Image &image;
    Codes valid;
    std::unordered_map<jl_method_instance_t *, Instances> callers;
    MissingMethods missing;

    std::unordered_map<jl_method_instance_t *, Codes> ended;
    std::vector<Change> roots;
    std::vector<Node> nodes;
    std::unordered_map<jl_method_instance_t *, size_t> number_of;
    std::vector<jl_typemap_entry_t *> only_added, only_ended;
    Codes elsewhere;  // ended, and not reached by any edge

    void reach(jl_method_instance_t *instance, size_t change, long caller_of);
    void reach_callers(jl_method_instance_t *instance, size_t change, long caller_of);
    void begin(const MethodChanges &changes);
    void write_ambiguities(Json &json) const;
};
