// Global names, to see what evaluating definitions did besides adding methods.
#pragma once

#include "image.h"
#include "json.h"

#include <functional>
#include <unordered_map>

// The binding becomes what it was before anything was bound to it; an export stays. Returns the value that it had.
jl_value_t *unbind(jl_module_t *module, jl_sym_t *name);

// The module does not export the name any more, whether it is its own, imported, or never defined.
void unexport(jl_module_t *module, jl_sym_t *name);

// Who uses a name of a module. Writes {"modules": [...] in which it stands for this binding, "methods": [{"module",
// "name", "signature", "file", "line"}] whose code refers to the binding or to its value, "objects": whether the
// image has objects of the type that it defines, or of types made with that}.
void write_users(Json &json, const Image &image, jl_module_t *module, jl_sym_t *name);

class BindingSnapshot {
public:
    explicit BindingSnapshot(const Image &image);
    // Writes an array of {"module", "name", "kind", "new", "alike"} for each name that was bound or changed since;
    // "kind" is "function", "type", "module", "constant" or "global"; "alike" tells that another object is bound
    // now, with the same contents. Names that the compiler makes (with a #) are left out.
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
