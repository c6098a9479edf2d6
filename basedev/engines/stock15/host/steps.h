// Carrying out the steps of a revision in this process, and what they define.
#pragma once

#include "docstrings.h"
#include "effects.h"
#include "image.h"
#include "json.h"
#include "lines.h"
#include "requests.h"

#include <memory>
#include <string>
#include <vector>

class Steps {
public:
    Effects effects;  // of the step that is carried out

    // `libraries` is the directory of the standard libraries.
    Steps(const Image &image, const std::string &libraries);

    // Carries out steps in order. Writes the members "errors": [{"step", "message"}], "defined": [{..., "step",
    // "replaces"}], "ended": [...], "emptied": [...], "names": [...] of an object.
    void perform(const std::vector<Step> &steps, Json &json);

private:
    const Image &image;
    const std::string &libraries;
    const size_t started_in;  // the world
    Docstrings docstrings;
    Lines lines;

    std::string perform(const Step &step);
    std::string end_method(jl_module_t *module, jl_sym_t *name, const std::string &signature);
    void keep_alive(jl_value_t *value);
    void write_methods(Json &json, size_t world_before, const std::vector<size_t> &world_after) const;
    void write_defined(Json &json, size_t world_before, const std::vector<size_t> &world_after) const;
};
