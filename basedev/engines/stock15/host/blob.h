// A serialized heap as Julia lays it out. Source: src/staticdata.c of Julia 1.5.3, jl_save_system_image_to_stream.
#pragma once

#include "runtime.h"

#include <cstring>

// A reference in a heap is 29 bits of offset below three bits that tell what kind it is (RefTags).
//   DATA      an object of the heap: bytes from the blob's start
//   CONSTANT  data without references: words from the start of their section
//   TAG       the root task (0) and the boxed small integers
//   SYMBOL    how many symbols stand before it
//   BINDING   no object: the tag before a module's binding
//   FUNCTION  a calling convention of the runtime (CallingConvention)
//   BUILTIN   the code of a built-in function
enum ReferenceKind : uint32_t { DATA, CONSTANT, TAG, SYMBOL, BINDING, FUNCTION, BUILTIN };
enum CallingConvention : uint32_t { CALL_BOXED = 1, CALL_CONST = 2, CALL_SPARAMS = 3, CALL_BUILTIN = 5 };

using Reference = uint32_t;

inline Reference reference_to(ReferenceKind kind, uint32_t offset) { return (uint32_t)kind << 29 | offset; }
inline ReferenceKind kind_of(Reference reference) { return (ReferenceKind)(reference >> 29); }
inline uint32_t offset_in(Reference reference) { return reference & ((1u << 29) - 1); }

const uint32_t SMALL_INTEGERS = 1024;  // boxes of each kind that are referred to by tag (NBOX_C)

// What the loader makes anew of an object when everything is in its place (jl_reinit_item).
enum Reinit : uint32_t { REHASH_IDDICT = 1, REBUILD_BINDINGS = 2 };

// Behind the sections stand the objects that the runtime knows by name, the root task's storage, three counters, pairs
// of an object and its Reinit ended by 0, and a like list of methods that C calls, which is empty in 1.5.3.
enum TailWord : size_t { TASK_STORAGE = 138, GENSYM_COUNTER, WORLD_COUNTER, INFERENCE_WORLD, REINIT_LIST };

template <class T> T read_at(const char *place) {
    T value;
    memcpy(&value, place, sizeof value);
    return value;
}

struct Section {
    const char *begin;
    size_t size;
    template <class T> size_t count() const { return size / sizeof(T); }
    template <class T> T at(size_t i) const { return read_at<T>(begin + i * sizeof(T)); }
};

// Where the contents of a module's list of bindings are: the list begins behind the module.
struct SerializedBinding {
    uint64_t tag;
    jl_binding_t binding;
};

// The sections of a blob.
struct Blob {
    Blob() = default;
    explicit Blob(const char *bytes);

    const char *bytes = nullptr;
    // Offsets of objects count from the blob's start, and so does this section, in which four bytes are its size.
    Section objects, constants, symbols, relocations, gvars, fvars, tail;

    uint64_t word(uint32_t offset) const { return read_at<uint64_t>(bytes + offset); }
    size_t size() const { return (size_t)(tail.begin + tail.size - bytes); }
};
