// The system image that the process was started on: where its objects are, and its native code.
#pragma once

#include "blob.h"

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

// The entries of one CodeInstance in the image's table of functions ("fvars"), counted from 1.
struct NativeCode {
    int32_t invoke = INVOKE_NONE;  // an fvar, or INVOKE_BOXED, INVOKE_SPARAMS
    uint32_t specialized = 0;      // an fvar, or 0
};

// What an image is to have: the functions of CodeInstances as in NativeCode, and the numbers of the slots for values.
using Functions = std::map<jl_code_instance_t *, std::tuple<uint32_t, uint32_t>>;
using Values = std::map<void *, int32_t>;

// By instances of replaced methods, those of the new methods that are called in the same way.
using Successors = std::unordered_map<jl_method_instance_t *, jl_method_instance_t *>;

class Image {
public:
    // Finds the tables of the loaded image and gives its CodeInstances their native code back, which the
    // runtime leaves out while it generates output. Exits with a message when the image is not as expected.
    void load(const char *path);

    uint32_t fvars = 0, gvars = 0;  // sizes of the tables
    std::unordered_map<jl_code_instance_t *, NativeCode> native;
    std::vector<jl_code_instance_t *> order;            // the keys of `native` in the order of the table
    std::unordered_map<void *, uint32_t> gvar_of;       // value -> slot, counted from 1

    Blob blob;                           // as it stands in the file
    std::vector<jl_value_t *> symbols;   // those of the blob
    const uint32_t *tagged = nullptr;    // offsets of all objects' headers, ascending, ended by 0

    bool contains(const void *object) const {
        return (const char *)object >= data && (const char *)object < data + blob.objects.size;
    }
    // An offset in the blob stands for the same offset here.
    uint32_t offset_of(const void *object) const { return (uint32_t)((const char *)object - data); }
    void *at(uint32_t offset) const { return data + offset; }
    // Every object of exactly this type in the image, looked for once only: what is in the image stays there, and keeps
    // its type.
    const std::vector<jl_value_t *> &all_of(jl_datatype_t *type) const {
        look_for({type});
        return kept.at(type);
    }
    // Looks for those of several types at once: most of the time that it takes is memory's.
    void look_for(const std::vector<jl_datatype_t *> &types) const;
    void for_each_object(const std::function<void(jl_value_t *)> &visit) const;

    // Whether a heap that was serialized from this process still gives each slot of the image a value, and each
    // function a CodeInstance, that had one. Kept code would otherwise read null there. Empty if so.
    std::string what_is_missing(const char *heap) const;

private:
    mutable std::unordered_map<jl_datatype_t *, std::vector<jl_value_t *>> kept;
    std::vector<bool> filled_gvars, filled_fvars;
    char *data = nullptr;  // the blob in memory, relocated
};

// The object that a reference of kind TAG stands for.
jl_value_t *tagged_value(uint32_t tag);

[[noreturn]] void fail(const std::string &message);
