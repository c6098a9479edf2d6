// How objects lie in memory, as far as the serializer tells them apart (jl_write_values, src/staticdata.c).
#pragma once

#include "runtime.h"

inline size_t align(size_t size, size_t to) { return (size + to - 1) & ~(to - 1); }

// Types that are written otherwise than others, by their names.
inline bool is_base_type(jl_datatype_t *type, jl_sym_t *name) {
    jl_module_t *module = type->name->module;
    return type->name->name == name && (module == jl_base_module || module->parent == jl_base_module);
}
inline bool is_iddict(jl_datatype_t *type) {
    static jl_sym_t *const name = jl_symbol("IdDict");
    return is_base_type(type, name);
}
inline bool is_bigint(jl_datatype_t *type) {
    static jl_sym_t *const name = jl_symbol("BigInt");
    return is_base_type(type, name);
}

// In a heap a BigInt is these and its limbs.
struct SerializedBigInt {
    int32_t allocated, size;
    const void *limbs;
};

inline size_t array_header_size(const jl_array_t *array) {
    return sizeof(jl_array_t) + jl_array_ndimwords(array->flags.ndims) * sizeof(size_t);
}
inline bool has_references(const jl_array_t *array) { return array->flags.ptrarray || array->flags.hasptr; }
inline size_t data_size(const jl_array_t *array) { return jl_array_len(array) * array->elsize; }

// Whether a reference stands at an offset in a struct.
inline bool is_reference_in(jl_datatype_t *type, size_t offset) {
    for (uint32_t i = 0; i < type->layout->npointers; i++)
        if (jl_ptr_offset(type, (int)i) * sizeof(void *) == offset)
            return true;
    return false;
}

inline size_t layout_size(const jl_datatype_layout_t *layout) {
    size_t size = sizeof *layout + layout->nfields * jl_fielddesc_size((int8_t)layout->fielddesc_type);
    if (layout->first_ptr != -1)
        size += (size_t)layout->npointers << layout->fielddesc_type;
    return size;
}
