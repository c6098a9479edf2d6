// What of chained system images (see chained.h) needs the state of staticdata.c, which includes this file.

static int chained_requested = 0;
static jl_image_chain_t image_chain;
static jl_image_t chained_image; // as it was parsed, before its functions are registered
static htable_t chained_fvar_ids; // function pointer => fvar index + 2

static jl_heap_part_t heap_parts[3];

const jl_heap_part_t *jl_heap_parts(void)
{
    return heap_parts;
}

void jl_request_chained_image(void)
{
    chained_requested = 1;
}

int jl_image_chained(void)
{
    return image_chain.fvars != 0;
}

const jl_image_chain_t *jl_image_chain(void)
{
    return &image_chain;
}

#ifndef _OS_WINDOWS_
// Has the shared object that an address is in this symbol? (Not all versions of jl_image_buf_t have a handle.)
static int is_next_to(const void *address, const char *symbol)
{
    Dl_info object;
    void *handle = dladdr(address, &object) ? dlopen(object.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (handle == NULL)
        return 0;
    int found = dlsym(handle, symbol) != NULL;
    dlclose(handle);
    return found;
}
#endif

static const char *why_not_chained(const jl_image_t *image, jl_image_buf_t buf)
{
    if (!jl_options.outputo || jl_options.incremental)
        return "it is for making system images (--output-o)";
    if (jl_options.outputbc || jl_options.outputunoptbc || jl_options.outputasm || jl_options.outputji)
        return "--output-o is its only output";
    if (jl_options.trim)
        return "--trim makes an image with new code only";
#ifdef ZSTD_VERSION_NUMBER // from when on heaps can be compressed
    if (jl_options.compress_sysimage)
        return "the heap is written as it is (without --compress-sysimage)";
#endif
    if (buf.kind != JL_IMAGE_KIND_SO || image->fptrs.nptrs == 0)
        return "the system image has no native code";
#ifdef _OS_WINDOWS_
    return "not on Windows yet";
#else
    if (!is_next_to(buf.pointers, "jl_image_chainable"))
        return "the system image's functions have no symbols: it was made by a Julia without this option";
    const jl_image_pointers_t *pointers = (const jl_image_pointers_t*)buf.pointers;
    uint32_t targets;
    memcpy(&targets, pointers->target_data, sizeof(targets));
    if (targets != 1)
        return "the system image is for several processors (JULIA_CPU_TARGET)";
    return NULL;
#endif
}

// To be called with the parsed image, before it is restored.
static void prepare_chained_image(const jl_image_t *image, jl_image_buf_t buf)
{
    if (!chained_requested)
        return;
    const char *reason = why_not_chained(image, buf);
    if (reason) {
        jl_safe_printf("ERROR: --sysimage-native-code=chained is not possible: %s\n", reason);
        exit(1);
    }
    chained_image = *image;
    const jl_image_header_t *header = ((const jl_image_pointers_t*)buf.pointers)->header;
    image_chain.shards = header->nshards;
    image_chain.fvars = header->nfvars;
    image_chain.gvars = header->ngvars;
    htable_new(&chained_fvar_ids, 2 * (size_t)image->fptrs.nptrs);
    for (size_t i = 0; i < image->fptrs.nptrs; i++)
        ptrhash_put(&chained_fvar_ids, image->fptrs.ptrs[i], (void*)(i + 2));
}

uint32_t jl_image_fvar_id(void *fptr)
{
    if (!jl_image_chained() || fptr == NULL)
        return 0;
    void *id = ptrhash_get(&chained_fvar_ids, fptr);
    return id == HT_NOTFOUND ? 0 : (uint32_t)((uintptr_t)id - 1);
}

static int is_from_image(jl_code_instance_t *ci)
{
#ifdef JL_CI_FLAGS_FROM_IMAGE
    return jl_atomic_load_relaxed(&ci->flags) & JL_CI_FLAGS_FROM_IMAGE;
#else
    return jl_atomic_load_relaxed(&ci->specsigflags) & 0b100; // the same, before it had that name
#endif
}

int jl_ci_has_image_code(jl_code_instance_t *ci)
{
    if (jl_atomic_load_relaxed(&ci->invoke) == NULL || !is_from_image(ci))
        return 0;
    return jl_image_fvar_id(jl_atomic_load_relaxed(&ci->specptr.fptr)) != 0;
}

int jl_ci_is_kept(jl_code_instance_t *ci)
{
    if (!jl_image_chained() || jl_atomic_load_relaxed(&ci->max_world) != ~(size_t)0)
        return 0;
    if (jl_atomic_load_relaxed(&ci->invoke) == jl_fptr_const_return)
        return jl_object_in_image((jl_value_t*)ci);
    return jl_ci_has_image_code(ci);
}

// How a function is called: as `jl_get_function_id` has it for those without one that unpacks arguments, otherwise 0.
static int32_t convention_of(jl_callptr_t invoke)
{
    return invoke == jl_fptr_args_addr ? -1 : invoke == jl_fptr_sparam_addr ? -2 :
        invoke == jl_f_opaque_closure_call_addr ? -4 : 0;
}

typedef struct {
    jl_code_instance_t *code;
    uint32_t from, to; // 1-based indexes in the table of functions; `to` is 0 until it is known
    int32_t convention;
} chained_jump_t;

static chained_jump_t *chained_jumps;
static size_t chained_jumps_count;

void jl_succeed_image_code(jl_code_instance_t *old, jl_code_instance_t *code)
{
    jl_value_t *pairs[] = {(jl_value_t*)old, (jl_value_t*)code, old->def, code->def};
    for (size_t i = 0; i < image_chain.gvars; i++) {
        jl_value_t **slot = (jl_value_t**)sysimg_gvars(chained_image.gvars_base, chained_image.gvars_offsets, i);
        for (size_t pair = 0; pair < 4; pair += 2) {
            if (*slot == pairs[pair])
                *slot = pairs[pair + 1];
        }
    }
    if (!jl_ci_has_image_code(old))
        return;
    chained_jump_t jump = {code, jl_image_fvar_id(jl_atomic_load_relaxed(&old->specptr.fptr)), 0,
                           convention_of(jl_atomic_load_relaxed(&old->invoke))};
    chained_jumps = (chained_jump_t*)realloc_s(chained_jumps, (chained_jumps_count + 1) * sizeof(jump));
    chained_jumps[chained_jumps_count++] = jump;
}

static void note_jumps_to(jl_code_instance_t *code, int32_t invoke_id, int32_t specptr_id)
{
    for (size_t i = 0; i < chained_jumps_count; i++) {
        if (chained_jumps[i].code == code && chained_jumps[i].convention == (invoke_id > 0 ? 0 : invoke_id))
            chained_jumps[i].to = specptr_id;
    }
}

// Adds to a file beside the archive, for each, the numbers in the names of the two functions, `jlfv_<number>`.
static void write_jumps(void)
{
    if (chained_jumps_count == 0)
        return;
    char path[JL_PATH_MAX];
    snprintf(path, sizeof(path), "%s.jumps", jl_options.outputo);
    FILE *file = fopen(path, "w");
    int written = file != NULL;
    for (size_t i = 0; i < chained_jumps_count; i++) {
        if (chained_jumps[i].to == 0) {
            jl_safe_printf("ERROR: nothing was compiled to succeed function %u\n", chained_jumps[i].from - 1);
            exit(1);
        }
        written = written && fprintf(file, "%u %u\n", chained_jumps[i].from - 1, chained_jumps[i].to - 1) > 0;
    }
    if (!written || fclose(file) != 0) {
        jl_safe_printf("ERROR: cannot write %s\n", path);
        exit(1);
    }
}

static int fvar_is_taken(ios_t *fptr_record, uint32_t id)
{
    return fptr_record->size >= id * sizeof(void*) && ((uintptr_t*)fptr_record->buf)[id - 1] != 0;
}

// Turns the ids of a function in the new shards into those in all shards, or finds those of code in the old shards.
static void chained_function_ids(ios_t *fptr_record, jl_code_instance_t *ci, int32_t *invoke_id, int32_t *specptr_id)
{
    if (*invoke_id) {
        if (*invoke_id > 0)
            *invoke_id += image_chain.fvars;
        if (*specptr_id > 0)
            *specptr_id += image_chain.fvars;
        note_jumps_to(ci, *invoke_id, *specptr_id);
        return;
    }
    if (!jl_ci_has_image_code(ci))
        return;
    // An fvar serves one CodeInstance only: the first keeps it.
    uint32_t spec = jl_image_fvar_id(jl_atomic_load_relaxed(&ci->specptr.fptr));
    if (fvar_is_taken(fptr_record, spec))
        return;
    jl_callptr_t invoke = jl_atomic_load_relaxed(&ci->invoke);
    int32_t id = convention_of(invoke);
    if (id == 0) {
        id = jl_image_fvar_id((void*)invoke);
        if (id == 0 || (uint32_t)id >= spec || fvar_is_taken(fptr_record, id))
            return;
    }
    *invoke_id = id;
    *specptr_id = spec;
}

// The old shards' global variables keep their indexes and have the values that they have now; the new ones follow.
static void chained_gvars(arraylist_t *gvars)
{
    size_t added = gvars->len, old = image_chain.gvars;
    arraylist_grow(gvars, old);
    memmove(gvars->items + old, gvars->items, added * sizeof(void*));
    for (size_t i = 0; i < old; i++)
        gvars->items[i] = *(void**)sysimg_gvars(chained_image.gvars_base, chained_image.gvars_offsets, i);
}
