// How chained images (see chained.h) are written faster; staticdata.c includes this file.
//
// Two and a half million objects are looked up several times each, which in a hash table of that size misses the caches.
// Nearly all are the running image's: their places in the order are in a table by address.

static void **image_order; // one entry for every 16 bytes, to which objects are aligned
static uintptr_t image_order_begin, image_order_size;
static uintptr_t kept_begin, kept_size; // where objects are that the image has without being queued (chained_heap.c)

static void order_image_objects(void)
{
    image_order_begin = (uintptr_t)jl_linkage_blobs.items[0];
    image_order_size = (uintptr_t)jl_linkage_blobs.items[1] - image_order_begin;
    image_order = (void**)calloc(image_order_size / 16 + 1, sizeof(void*));
}

static void forget_order_of_image(void)
{
    free(image_order);
    image_order = NULL;
}

static inline void **image_order_of(const htable_t *table, const void *object)
{
    uintptr_t offset = (uintptr_t)object - image_order_begin;
    if (table != &serialization_order || !image_order || offset >= image_order_size || offset % 16)
        return NULL;
    return &image_order[offset / 16];
}

static inline void **chained_hash_bp(htable_t *table, void *key)
{
    void **place = image_order_of(table, key);
    if (!place)
        return ptrhash_bp(table, key);
    if (!*place)
        *place = HT_NOTFOUND;
    return place;
}

static inline void *chained_hash_get(htable_t *table, void *key)
{
    if (table == &serialization_order && (uintptr_t)key - kept_begin < kept_size)
        return key;
    void **place = image_order_of(table, key);
    if (!place)
        return ptrhash_get(table, key);
    return *place ? *place : HT_NOTFOUND;
}

static inline void chained_hash_put(htable_t *table, void *key, void *value)
{
    *chained_hash_bp(table, key) = value;
}

#define ptrhash_bp(table, key) chained_hash_bp(table, (void*)(key))
#define ptrhash_get(table, key) chained_hash_get(table, (void*)(key))
#define ptrhash_put(table, key, value) chained_hash_put(table, (void*)(key), (void*)(value))
