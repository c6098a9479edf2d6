// Global names, to see what evaluating definitions did besides adding methods.
#pragma once

#include "image.h"
#include "json.h"

#include <functional>
#include <unordered_map>

class BindingSnapshot {
public:
    explicit BindingSnapshot(const Image &image);
    // Writes an array of {"module", "name", "kind", "new"} for each name that was bound or changed
    // since; "kind" is "function", "type", "module", "constant" or "global". Names that the
    // compiler makes (with a #) are left out.
    void write_changes(Json &json) const;

private:
    struct Entry {
        jl_value_t *value;
        bool constant;
    };
    const Image &image;
    std::unordered_map<jl_binding_t *, Entry> before;
    void for_each(const std::function<void(jl_module_t *, jl_binding_t *)> &visit) const;
};
