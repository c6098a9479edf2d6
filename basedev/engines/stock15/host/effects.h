// What evaluating definitions does to global names, whether or not their values differ from before.
#pragma once

#include "json.h"
#include "runtime.h"

#include <string>
#include <vector>

class Effects {
public:
    // Begins to take notes, for the rest of this process's life (a child made by fork).
    void watch();
    // What is noted from now on belongs to this step.
    void begin_step(size_t number) { step = number; }
    // Writes an array of {"step", "kind", "module", "name"}, each once. Kinds: "assigned", "constant" (declared),
    // "function" (with a method, or without any), "exported"; and "using" (of the module `name`), "used" and "imported"
    // (the single name) with "from", the other module's full name, and "conflict", whether the module has another such
    // name already.
    void write(Json &json) const;

private:
    struct Effect {
        size_t step;
        const char *kind;
        jl_module_t *module;
        jl_sym_t *name;
        jl_module_t *from;
    };
    size_t step = 0;
    std::vector<Effect> effects;
    void add(const char *kind, jl_module_t *module, jl_sym_t *name, jl_module_t *from = nullptr);
};
