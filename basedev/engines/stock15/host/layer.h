// Native code for a list of MethodInstances, as object files that link with the base image's own.
#pragma once

#include "image.h"

#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

// How the parts of an image refer to each other: symbols that the linker resolves.
//   jlf_<n>  function n of the image's table (fvar), counted from 1
//   jlg_<n>  slot n of the image's table of values (gvar), counted from 1
//   jlp_<name>  slots that the loader fills in: jl_get_ptls_states_slot, jl_tls_offset
// The slots are defined in the object with the tables.
class Layer {
public:
    // With `chained`, native code of the image is called where it is and keeps its numbers; without, the
    // layer is to stand alone (a new base image) and numbers start at 1.
    Layer(const Image &image, bool chained);
    ~Layer();

    // Generates LLVM code for the instances in `world`.
    void generate(const std::vector<jl_method_instance_t *> &instances, size_t world);
    // Optimises and writes `<directory>/<name>.<part>.o` in processes of their own, one a part. This one goes on.
    void start_emission(const std::string &directory, const std::string &name);
    // Waits for them. Returns the objects' paths. Exits when one failed.
    std::vector<std::string> finish_emission();

    // Functions of the image whose CodeInstance ended after the world `since` and has another one in this layer in its
    // place, as pairs of fvars: native code that is kept still calls the old one.
    std::vector<std::pair<uint32_t, uint32_t>> replaced(size_t since, size_t world, const Successors &successors) const;
    // What jl_create_system_image has to know about the native code, and the same in parts.
    void *description();
    const Functions &functions() const;
    const Values &values() const;

    uint32_t fvars = 0, gvars = 0;  // of the whole image
    size_t compiled = 0;            // CodeInstances with native code in this layer
    size_t calls_into_base = 0;     // direct calls from this layer to native code of the image
    size_t calls_through_runtime = 0;  // by jl_invoke: the callee has no native code
    const bool chained;

private:
    struct Code;
    const Image &image;
    std::unique_ptr<Code> code;
    std::vector<pid_t> children;
    std::vector<std::string> objects;
};
