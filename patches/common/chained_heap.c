// How the heap of a chained image is written in a moment; staticdata.c includes this file.
//
// All objects of the running image are in its file, and few are others than when they were loaded. These are written again in
// their places, by the code that writes any object; what is new comes behind. So no object of the image needs to be visited to
// find what it refers to: only what was changed can refer to something new.

#ifdef _OS_LINUX_
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#endif

static struct {
    char *memory;       // the image's objects and constants, from the word before them on
    size_t data_size;   // bytes of the objects, with that word
    size_t constants;   // where the constants begin, and their size in bytes
    size_t constants_size;
    size_t symbols, symbols_size;
    size_t relocations;
    size_t functions, functions_size;
    const char *file;   // the same as `memory`, before it was relocated
    int descriptor;     // of the file, and where in it that is
    size_t offset;
    char *loaded;       // a copy of the objects as they were loaded; NULL where all of the heap is to be written
    uint8_t *reached;   // a bit for each 16 bytes: whether the object there was marked when all marks were last taken away
} image_heap;

static htable_t written_again;      // object of the image => where it ends
static arraylist_t again;           // their positions, in rising order once all are known, and ends
static htable_t held_weakly;        // what keeps nothing alive => itself, or NULL for what is replaced when it is pruned
static size_t end_of_object;        // of the object of the image that is being written; 0 for another one
static const uint8_t *list_of_image; // the image's list of positions that is to be written next

static int whole_heap_requested = 0;

void jl_request_whole_heap(void)
{
    whole_heap_requested = 1;
}

// Maps a part of the image's file, for this process only, with room behind it.
static char *map_file(size_t begin, size_t size, size_t room)
{
#ifdef _OS_LINUX_
    size_t place = image_heap.offset + begin, shift = place % jl_page_size;
    char *mapped = (char*)mmap(NULL, shift + size + room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    int flags = MAP_PRIVATE | MAP_FIXED;
    if (mmap(mapped, shift + size, PROT_READ | PROT_WRITE, flags, image_heap.descriptor, place - shift) == MAP_FAILED)
        return NULL;
    return mapped + shift;
#else
    return NULL;
#endif
}

// Finds what is mapped at an address of a shared object in its file.
static void find_in_file(const char *address, size_t size)
{
#ifdef _OS_LINUX_
    Dl_info object;
    if (!dladdr(address, &object))
        return;
    const char *base = (const char*)object.dli_fbase;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr)*)base;
    const ElfW(Phdr) *segment = (const ElfW(Phdr)*)(base + header->e_phoff);
    size_t place = address - base;
    for (size_t i = 0; i < header->e_phnum; i++, segment++) {
        if (segment->p_type != PT_LOAD || place < segment->p_vaddr || place + size > segment->p_vaddr + segment->p_filesz)
            continue;
        image_heap.offset = place - segment->p_vaddr + segment->p_offset;
        image_heap.descriptor = open(object.dli_fname, O_RDONLY | O_CLOEXEC);
        if (image_heap.descriptor >= 0)
            image_heap.file = map_file(0, size, 0);
    }
#endif
}

// Reads the size of a section, which begins behind it.
static size_t read_section(const char *image, size_t *position, size_t alignment, size_t *begin)
{
    size_t size;
    memcpy(&size, image + *position, sizeof(size));
    *begin = LLT_ALIGN(*position + sizeof(size), alignment);
    *position = *begin + size;
    return size;
}

// To be called when the image was restored, before anything runs.
static void note_restored_image(jl_image_buf_t buf)
{
    if (!jl_image_chained() || whole_heap_requested || jl_options.strip_metadata || jl_options.strip_ir)
        return;
    find_in_file(buf.data, buf.size);
    if (image_heap.file == NULL)
        return;
    image_heap.memory = (char*)buf.data;
    size_t position = 0, begin;
    read_section(buf.data, &position, 1, &begin);
    image_heap.data_size = position;
    image_heap.constants_size = read_section(buf.data, &position, JL_CACHE_BYTE_ALIGNMENT, &image_heap.constants);
    image_heap.symbols_size = read_section(buf.data, &position, 8, &image_heap.symbols);
    read_section(buf.data, &position, 8, &image_heap.relocations);
    read_section(buf.data, &position, 8, &begin); // values that native code uses, which are all written
    image_heap.functions_size = read_section(buf.data, &position, 8, &image_heap.functions);
    image_heap.loaded = (char*)malloc_s(image_heap.data_size);
    memcpy(image_heap.loaded, buf.data, image_heap.data_size);
    image_heap.reached = (uint8_t*)calloc(image_heap.data_size / 128 + 1, 1);
}

static inline int is_in_heap(const void *object)
{
    return image_heap.loaded &&
        (uintptr_t)object - (uintptr_t)image_heap.memory < image_heap.constants + image_heap.constants_size;
}

// What nothing refers to any more may refer to what is no more. To be called before an object's mark is taken away.
static inline void note_reached(const jl_taggedvalue_t *tagged)
{
    if (!is_in_heap(tagged))
        return;
    size_t number = ((const char*)tagged - image_heap.memory) / 16;
    uint8_t bit = 1 << number % 8;
    if (tagged->bits.gc & GC_MARKED)
        image_heap.reached[number / 8] |= bit;
    else
        image_heap.reached[number / 8] &= ~bit;
}

// Whether the last garbage collections came to an object. Marks are taken away by a full sweep, and the collection after that
// finds what is reached: even one that was asked to be full sweeps in full first, so that its marks are there afterwards.
static int is_reached(size_t tag)
{
    if (jl_astaggedvalue(jl_any_type)->bits.gc & GC_MARKED)
        return ((jl_taggedvalue_t*)(image_heap.memory + tag))->bits.gc & GC_MARKED;
    return image_heap.reached[tag / 128] >> tag / 16 % 8 & 1;
}

// What a relocation says of an object of the image. In a position of objects the bit tells it from the number of one that is
// written.
#define POSITION_IN_IMAGE ((uintptr_t)1 << (RELOC_TAG_OFFSET - 1))

static uintptr_t reference_to_image(const void *object)
{
    size_t position = (const char*)object - image_heap.memory;
    if (position < image_heap.data_size)
        return ((uintptr_t)DataRef << RELOC_TAG_OFFSET) + POSITION_IN_IMAGE + position;
    return ((uintptr_t)ConstDataRef << RELOC_TAG_OFFSET) + (position - image_heap.constants) / sizeof(void*);
}

// ---- lists of positions: each is told by the distance from the one before, seven bits in each byte ----

typedef struct {
    const uint8_t *next;
    size_t position;
} position_reader;

static int read_position(position_reader *reader)
{
    size_t distance = 0, shift = 0;
    uint8_t byte;
    do {
        byte = *reader->next++;
        distance |= (size_t)(byte & 0x7F) << shift;
        shift += 7;
    } while (byte & 0x80);
    reader->position += distance;
    return distance != 0;
}

static uint8_t *write_position(uint8_t *out, size_t distance)
{
    for (; distance > 0x7F; distance >>= 7)
        *out++ = (distance & 0x7F) | 0x80;
    *out++ = distance;
    return out;
}

static int compare_words(const void *a, const void *b) JL_NOTSAFEPOINT
{
    uintptr_t x = *(const uintptr_t*)a, y = *(const uintptr_t*)b;
    return (x > y) - (x < y);
}

// As jl_write_offsetlist does, with the image's own list, from which the positions in objects that were written again are gone.
static void write_positions(ios_t *s, size_t size, arraylist_t *list)
{
    if (!image_heap.loaded) {
        jl_write_offsetlist(s, size, list);
        return;
    }
    size_t count = list->len / 2;
    uintptr_t *fresh = (uintptr_t*)malloc_s((count + 1) * sizeof(uintptr_t));
    for (size_t i = 0; i < count; i++)
        fresh[i] = (uintptr_t)list->items[2 * i];
    qsort(fresh, count, sizeof(uintptr_t), compare_words);
    position_reader old = {list_of_image, 0};
    while (read_position(&old)) {
    }
    uint8_t *begin = (uint8_t*)malloc_s((old.next - list_of_image) + 10 * (count + again.len)), *out = begin;
    old = (position_reader){list_of_image, 0};
    size_t last = 0, next = 0, gone = 0;
    while (read_position(&old)) {
        while (gone < again.len && (size_t)again.items[gone + 1] <= old.position)
            gone += 2;
        if (gone < again.len && (size_t)again.items[gone] <= old.position)
            continue;
        for (; next < count && fresh[next] < old.position; last = fresh[next++])
            out = write_position(out, fresh[next] - last);
        out = write_position(out, old.position - last);
        last = old.position;
    }
    for (; next < count; last = fresh[next++])
        out = write_position(out, fresh[next] - last);
    *out++ = 0;
    ios_write(s, (const char*)begin, out - begin);
    list_of_image = old.next;
    free(begin);
    free(fresh);
}

// Modules are the only objects that a loader has to complete.
static void add_modules_of_image(arraylist_t *fixups)
{
    if (!image_heap.loaded)
        return;
    size_t kept = 0, count;
    for (size_t i = 0; i < fixups->len; i++) {
        if ((size_t)fixups->items[i] >= image_heap.data_size)
            fixups->items[kept++] = fixups->items[i];
    }
    fixups->len = kept;
    memcpy(&count, list_of_image, sizeof(count));
    arraylist_grow(fixups, count);
    memcpy(fixups->items + kept, list_of_image + sizeof(count), count * sizeof(void*));
}

// ---- what is to be written again ----

static jl_value_t *object_at(size_t tag)
{
    return (jl_value_t*)(image_heap.memory + tag + sizeof(jl_taggedvalue_t));
}

static void write_again(size_t tag, size_t end)
{
    if (!is_reached(tag))
        return;
    void **known = ptrhash_bp(&written_again, object_at(tag));
    if (*known == HT_NOTFOUND) {
        *known = (void*)end;
        arraylist_push(&again, (void*)tag);
        arraylist_push(&again, (void*)end);
    }
}

static int is_written_again(const void *object)
{
    return object && ptrhash_get(&written_again, (void*)object) != HT_NOTFOUND;
}

static void find_changed_objects(void)
{
    position_reader tags = {(const uint8_t*)image_heap.memory + image_heap.relocations, 0};
    size_t tag = 0, next = read_position(&tags) ? tags.position : image_heap.data_size;
    const size_t page = 4096;
    for (size_t begin = 0; begin < image_heap.data_size; begin += page) {
        size_t size = image_heap.data_size - begin < page ? image_heap.data_size - begin : page;
        if (!memcmp(image_heap.memory + begin, image_heap.loaded + begin, size))
            continue;
        for (size_t at = begin; at + sizeof(uintptr_t) <= begin + size; at += sizeof(uintptr_t)) {
            uintptr_t now = *(uintptr_t*)(image_heap.memory + at), before = *(uintptr_t*)(image_heap.loaded + at);
            if (now == before)
                continue;
            while (next <= at) {
                tag = next;
                next = read_position(&tags) ? tags.position : image_heap.data_size;
            }
            if (tag && (at != tag || ((now ^ before) & ~(uintptr_t)15))) // the rest are the garbage collector's
                write_again(tag, next);
        }
    }
}

// A list of backedges does not keep alive what it names.
static int hold_weakly(jl_array_t *list)
{
    if (!list || !is_in_heap(list))
        return 0; // a new list is one of an object that was changed
    jl_genericmemory_t *items = list->ref.mem;
    ptrhash_put(&held_weakly, list, list);
    if (is_in_heap(items))
        ptrhash_put(&held_weakly, items, items);
    return is_written_again(list) || is_written_again(items);
}

static int hold_all_weakly(jl_genericmemory_t *lists)
{
    if (is_in_heap(lists))
        ptrhash_put(&held_weakly, lists, lists);
    int changed = is_written_again(lists);
    for (size_t i = 1; i < lists->length; i += 2) {
        jl_value_t *list = jl_genericmemory_ptr_ref(lists, i);
        if (list && list != jl_nothing)
            changed |= hold_weakly((jl_array_t*)list);
    }
    return changed;
}

// The other modules that a module uses are in memory of its own.
static int are_other_usings(jl_module_t *m, size_t end)
{
    if (m->usings.items == &m->usings._space[0])
        return 0;
    const char *stored = (const char*)(m + 1), *was = image_heap.loaded + (stored - image_heap.memory);
    size_t size = m->usings.max * sizeof(void*);
    if (stored - image_heap.memory + size > end)
        return 1; // it has grown, which the writer tells
    return memcmp(m->usings.items, was, m->usings.len * sizeof(void*)) != 0;
}

// Code of the image may have had no native code, and have some now.
static int has_new_code(jl_code_instance_t *code)
{
    int32_t invoke = 0, specialized = 0;
    if (native_functions && !jl_ci_has_image_code(code))
        jl_get_function_id(native_functions, code, &invoke, &specialized);
    return invoke != 0;
}

static int changed_constants_in(const arraylist_t *constants, const char *begin, size_t size)
{
    size_t from = begin - image_heap.memory, low = 0, high = constants->len;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((size_t)constants->items[middle] + sizeof(uintptr_t) <= from)
            low = middle + 1;
        else
            high = middle;
    }
    return low < constants->len && (size_t)constants->items[low] < from + size;
}

// Marks what was changed elsewhere than in its own memory, and what is held weakly.
static void find_affected_objects(const arraylist_t *constants)
{
    htable_t replaced = {0}; // what has fields that are written otherwise than they are
    size_t count = precompile_field_replace ? jl_array_nrows(jl_svecref(precompile_field_replace, 0)) : 0;
    if (count)
        htable_new(&replaced, 2 * count);
    for (size_t i = 0; i < count; i++)
        ptrhash_put(&replaced, jl_array_ptr_ref(jl_svecref(precompile_field_replace, 0), i), NULL);
    position_reader tags = {(const uint8_t*)image_heap.memory + image_heap.relocations, 0};
    size_t next = read_position(&tags) ? tags.position : image_heap.data_size;
    while (next < image_heap.data_size) {
        size_t tag = next;
        next = read_position(&tags) ? tags.position : image_heap.data_size;
        jl_value_t *v = object_at(tag);
        int affected = 0;
        if (jl_is_method_instance(v))
            affected = hold_weakly(((jl_method_instance_t*)v)->backedges);
        else if (jl_is_binding(v))
            affected = hold_weakly(((jl_binding_t*)v)->backedges);
        else if (jl_is_mtable(v))
            affected = hold_all_weakly(((jl_methtable_t*)v)->backedges);
        else if (jl_is_typename(v)) {
            jl_typename_t *name = (jl_typename_t*)v;
            jl_svec_t *cache = jl_atomic_load_relaxed(&name->cache), *linear = jl_atomic_load_relaxed(&name->linearcache);
            if (is_in_heap(cache))
                ptrhash_put(&held_weakly, cache, NULL);
            if (is_in_heap(linear))
                ptrhash_put(&held_weakly, linear, linear);
            affected = is_written_again(cache) || is_written_again(linear);
        }
        else if (jl_is_method(v)) {
            jl_method_t *m = (jl_method_t*)v;
            affected = m->roots && jl_array_len(m->roots) != m->nroots_sysimg;
        }
        else if (jl_is_code_instance(v))
            affected = has_new_code((jl_code_instance_t*)v);
        else if (jl_is_module(v))
            affected = are_other_usings((jl_module_t*)v, next);
        else if (constants->len && jl_is_genericmemory(v)) {
            jl_genericmemory_t *m = (jl_genericmemory_t*)v;
            const jl_datatype_layout_t *layout = ((jl_datatype_t*)jl_typeof(v))->layout;
            size_t size = m->length * (layout->size + layout->flags.arrayelem_isunion);
            affected = is_in_heap(m->ptr) && (char*)m->ptr >= image_heap.memory + image_heap.constants &&
                changed_constants_in(constants, (const char*)m->ptr, size);
        }
        if (affected || (replaced.size && ptrhash_get(&replaced, v) != HT_NOTFOUND))
            write_again(tag, next);
    }
    htable_free(&replaced);
}

#define ROOM ((size_t)256 << 20) // of addresses only; a stream that needs more is copied

// Begins a stream with a section of the image, of which only what is written to is copied.
static void begin_stream(ios_t *s, size_t begin, size_t size)
{
    char *mapped = map_file(begin, size, ROOM);
    if (mapped == NULL) {
        ios_write(s, image_heap.file + begin, size);
        return;
    }
    s->buf = mapped;
    s->bpos = s->size = size;
    s->maxsize = size + ROOM;
    s->ownbuf = 0;
}

// Leaves room for the rest of a stream in another one. Gives 0 where it is to be copied.
static int keep_apart(ios_t *all, ios_t *s)
{
    if (!image_heap.loaded)
        return 0;
    jl_heap_part_t *part = heap_parts;
    while (part->data)
        part++;
    *part = (jl_heap_part_t){(size_t)ios_pos(all), s->buf + s->bpos, s->size - s->bpos};
    ios_trunc(all, part->place + part->size);
    ios_seek_end(all);
    s->ownbuf = 0; // it stays
    return 1;
}

// Where the stream of objects begins, less where it does in the one for all.
static char *base_of_objects(char *all, size_t offset)
{
    return image_heap.loaded ? (char*)heap_parts[0].data - sizeof(uintptr_t) - offset : all;
}

// Begins the section with what the image has. Changed data of arrays comes behind, like all that is written; what is left are
// strings that were changed in place.
static void load_constants(jl_serializer_state *s, arraylist_t *constants)
{
    const char *now = image_heap.memory, *before = image_heap.file;
    size_t end = image_heap.constants + image_heap.constants_size;
    begin_stream(s->const_data, image_heap.constants, image_heap.constants_size);
    for (size_t at = image_heap.constants; at < end; at += sizeof(uintptr_t)) {
        size_t size = end - at < sizeof(uintptr_t) ? end - at : sizeof(uintptr_t);
        if (memcmp(now + at, before + at, size)) {
            arraylist_push(constants, (void*)at);
            memcpy(s->const_data->buf + (at - image_heap.constants), now + at, size);
        }
    }
}

static void load_symbols(jl_serializer_state *s)
{
    const char *begin = image_heap.file + image_heap.symbols, *end = begin + image_heap.symbols_size;
    ios_write(s->symbols, begin, image_heap.symbols_size);
    while (begin < end) {
        uint32_t length = jl_load_unaligned_i32(begin);
        begin += sizeof(length);
        ptrhash_put(&symbol_table, _jl_symbol(begin, length), to_seroder_entry(nsym_tag++));
        begin += length + 1;
    }
}

// The functions of CodeInstances that are written again are found anew.
static void load_functions(jl_serializer_state *s)
{
    ios_write(s->fptr_record, image_heap.file + image_heap.functions, image_heap.functions_size);
    for (size_t at = 0; at + sizeof(void*) <= image_heap.functions_size; at += sizeof(void*)) {
        intptr_t position = *(intptr_t*)(s->fptr_record->buf + at);
        if (is_written_again(image_heap.memory + (position < 0 ? ~position : position)))
            memset(s->fptr_record->buf + at, 0, sizeof(void*));
    }
}

// They stay in their places as they were.
static void forget_replaced_objects(void)
{
    size_t kept = 0;
    for (size_t i = 0; i < again.len; i += 2) {
        if (ptrhash_get(&held_weakly, object_at((size_t)again.items[i])) == NULL)
            continue;
        again.items[kept++] = again.items[i];
        again.items[kept++] = again.items[i + 1];
    }
    again.len = kept;
}

// Queues what was changed, and begins all sections. To be called once the roots are queued.
static void queue_changed_objects(jl_serializer_state *s) JL_GC_DISABLED
{
    if (!image_heap.loaded)
        return;
    htable_new(&written_again, 0);
    htable_new(&held_weakly, 0);
    arraylist_new(&again, 0);
    kept_begin = (uintptr_t)image_heap.memory;
    kept_size = image_heap.constants + image_heap.constants_size;
    list_of_image = (const uint8_t*)image_heap.memory + image_heap.relocations;
    arraylist_t constants;
    arraylist_new(&constants, 0);
    load_constants(s, &constants);
    find_changed_objects();
    ptrhash_put(&held_weakly, jl_global_roots_list, NULL);
    ptrhash_put(&held_weakly, jl_global_roots_keyset, NULL);
    find_affected_objects(&constants);
    arraylist_free(&constants);
    forget_replaced_objects();
    qsort(again.items, again.len / 2, 2 * sizeof(void*), compare_words);
    begin_stream(s->s, 0, image_heap.data_size);
    load_symbols(s);
    load_functions(s);
    for (size_t i = 0; i < again.len; i += 2) {
        jl_value_t *v = object_at((size_t)again.items[i]);
        if (ptrhash_get(&held_weakly, v) == HT_NOTFOUND) {
            ptrhash_put(&serialization_order, v, (void*)(uintptr_t)-2);
            jl_insert_into_serialization_queue(s, v, 1, 0);
        }
    }
}

static void queue_alone(jl_value_t *v)
{
    ptrhash_put(&serialization_order, v, to_seroder_entry(serialization_queue.len));
    arraylist_push(&serialization_queue, (void*)v);
}

// Of the types in a changed cache of the image, those that are not in the new image are taken out, into a new cache.
static jl_svec_t *pruned_type_cache(jl_svec_t *cache) JL_GC_DISABLED
{
    if (!is_written_again(cache))
        return cache;
    cache = jl_svec_copy(cache);
    size_t kept = 0, length = jl_svec_len(cache);
    for (size_t i = 0; i < length; i++) {
        jl_value_t *type = jl_svecref(cache, i);
        if (type == jl_nothing)
            continue;
        if (ptrhash_get(&serialization_order, type) == HT_NOTFOUND)
            jl_svecset(cache, i, jl_nothing);
        else
            kept++;
    }
    cache = cache_rehash_set(cache, kept < HT_N_INLINE ? HT_N_INLINE : kept);
    queue_alone((jl_value_t*)cache);
    return cache;
}

// Queues what was pruned.
static void queue_weak_objects(void)
{
    if (!image_heap.loaded)
        return;
    for (size_t i = 0; i < again.len; i += 2) {
        jl_value_t *v = object_at((size_t)again.items[i]);
        if (ptrhash_get(&held_weakly, v) != HT_NOTFOUND)
            queue_alone(v);
    }
}

// ---- writing ----

static void check_end_of_object(const ios_t *f)
{
    if (end_of_object && f->bpos > end_of_object) {
        jl_safe_printf("ERROR: --sysimage-native-code=chained: an object of the system image has grown in its place\n");
        exit(1);
    }
    end_of_object = 0;
}

// Where an object is written: one of the image in its place. Gives the position behind its header.
static uintptr_t place_object(jl_serializer_state *s, ios_t *f, jl_value_t *v, int has_id, uintptr_t behind_header)
{
    if (!image_heap.loaded)
        return behind_header;
    check_end_of_object(s->s);
    size_t header = sizeof(jl_taggedvalue_t) + (has_id ? sizeof(size_t) : 0);
    if (!is_in_heap(v)) {
        ios_seek_end(f);
        return ios_pos(f) + header;
    }
    assert(f == s->s);
    size_t position = (char*)v - image_heap.memory;
    end_of_object = (size_t)ptrhash_get(&written_again, v);
    ios_seek(f, position - header);
    return position;
}

static void end_objects(jl_serializer_state *s)
{
    check_end_of_object(s->s);
    if (image_heap.loaded)
        ios_seek_end(s->s);
}

static void forget_image_heap(void)
{
    if (!image_heap.loaded)
        return;
    htable_free(&written_again);
    htable_free(&held_weakly);
    arraylist_free(&again);
}
