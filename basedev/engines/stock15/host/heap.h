// The heap of a chained image, as what it has other than the base image's: a few changed words and new objects behind
// the old ones. It loads to the same objects as what jl_create_system_image writes (src/staticdata.c of Julia 1.5.3).
#pragma once

#include "changes.h"
#include "recipe.h"

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

class Heap {
public:
    // Allocates no Julia objects. `image` is what the process runs on, and `before` what it was, if that is known.
    Heap(const Image &image, const Functions &functions, const Values &values, const Memory *before);

    // What has to be written as a whole for, if so; empty when `recipe` is the heap.
    std::string reason;
    Recipe recipe;

    // The object in memory that stands at an offset of the new blob.
    jl_value_t *object_at(uint32_t offset) const;

private:
    struct Contents;
    const Image &image;
    const Blob &base;
    const Functions &functions;
    const Values &values;
    Changes changes;

    const uint32_t old_end;  // where new objects begin
    std::string added_objects, added_constants, added_symbols;
    std::map<uint32_t, uint64_t> patches;           // words of old objects
    std::map<size_t, std::string> constant_patches;  // bytes of old constant data, by their place in the section
    std::vector<uint32_t> added_headers, added_references, removed_references;
    std::vector<Reference> added_gvars;
    std::vector<uint64_t> added_fvars;
    std::vector<std::pair<uint32_t, uint32_t>> added_reinits;
    std::unordered_map<jl_value_t *, uint32_t> placed;  // new objects
    std::map<uint32_t, jl_value_t *> object_of;
    std::unordered_map<jl_binding_t *, uint32_t> placed_bindings;
    std::unordered_map<jl_value_t *, Reference> symbol_numbers;
    std::unordered_map<void *, Reference> builtins;
    std::vector<jl_value_t *> waiting;
    Reference task_storage = 0;

    void give_up(const std::string &why);
    uint32_t allocate(size_t size, bool with_header);
    void set_word(uint32_t offset, uint64_t value);
    void set_reference(uint32_t offset, Reference reference);
    Reference reference(jl_value_t *object);
    Reference symbol_reference(jl_value_t *symbol);
    void put(uint32_t offset, const Contents &contents);
    void put_pointer(uint32_t offset, jl_value_t *object);
    Reference constant(const void *bytes, size_t size, size_t alignment, size_t zeros = 0);

    size_t size_of(jl_value_t *object) const;
    void encode(jl_value_t *object, uint32_t offset);
    void encode_array(jl_array_t *array, uint32_t offset);
    bool data_stays(jl_array_t *array, uint32_t offset) const;
    void encode_elements(jl_array_t *array, uint32_t data);
    void encode_module(jl_module_t *module, uint32_t offset);
    void encode_binding(jl_binding_t *binding, uint32_t offset);
    void encode_code(jl_code_instance_t *code, uint32_t offset, Contents &contents);
    void encode_fields(jl_value_t *object, uint32_t offset);
    bool same_pairs(jl_value_t *iddict, uint32_t offset) const;

    void encode_old_objects();
    void encode_old_array_word(jl_array_t *array, uint32_t offset, uint32_t word);
    void encode_old_modules();
    void encode_constants();
    void encode_new_objects();
    void record_gvars();
    void assemble();
};
