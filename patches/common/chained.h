// Chained system images: the native code of the running system image stays as it is, in the shards that it has; what was
// compiled since goes to new shards, and the heap is written anew. Asked for with --sysimage-native-code=chained.
//
// The image that is written is linked from the old image's shards, the new shards, and new data and metadata. Its tables
// of functions and of global variables begin with those of the old image, in their order.

#ifndef JL_CHAINED_H
#define JL_CHAINED_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t shards; // of the running image, before which new ones are numbered; all are 0 when nothing is chained
    uint32_t fvars;
    uint32_t gvars;
} jl_image_chain_t;

// What --sysimage-native-code=chained does. Whether the image can be chained is seen when it is loaded.
void jl_request_chained_image(void);
// Has all of the heap written, and not what is other than when the image was loaded.
void jl_request_whole_heap(void);
JL_DLLEXPORT int jl_image_chained(void) JL_NOTSAFEPOINT;
JL_DLLEXPORT const jl_image_chain_t *jl_image_chain(void) JL_NOTSAFEPOINT;
// 1-based index of a native function in the running image's table of functions, or 0.
JL_DLLEXPORT uint32_t jl_image_fvar_id(void *fptr) JL_NOTSAFEPOINT;
// Has `ci` native code in the running image? Such code is called directly, and is not compiled again.
JL_DLLEXPORT int jl_ci_has_image_code(jl_code_instance_t *ci) JL_NOTSAFEPOINT;
// May `ci` of the running image, with code or without need of any, be what its method instance is called through from
// now on?
JL_DLLEXPORT int jl_ci_is_kept(jl_code_instance_t *ci) JL_NOTSAFEPOINT;

// Has native code of the running image that calls or holds `old` come to `code` instead, which is called in the same way, in the
// image that is written.
JL_DLLEXPORT void jl_succeed_image_code(jl_code_instance_t *old, jl_code_instance_t *code);

// What stands at a place of the heap's stream, in which there is only room for it.
typedef struct {
    size_t place;
    const char *data;
    size_t size;
} jl_heap_part_t;

// The parts of the heap that are not in its stream, in their order; ends with one that has no data.
JL_DLLEXPORT const jl_heap_part_t *jl_heap_parts(void) JL_NOTSAFEPOINT;

#ifdef __cplusplus
}
#endif

#endif
