#include "garbage.h"

#include "runtime.h"

namespace {

// jl_gc_num_t (src/gc.h of Julia 1.5.3), of which the headers know nothing.
struct Counts {
    int64_t allocated, deferred, freed;
    uint64_t calls_malloc, calls_realloc, from_pools, big, calls_free, total_time, total_allocated, since_sweep;
    size_t interval;
    int collections, full_collections;
};

extern "C" Counts jl_gc_num(void);

const int64_t MOST_ALLOCATED = 3LL << 30;  // bytes

}  // namespace

void put_off_collection() { jl_gc_enable(0); }

void collect_if_need_be() {
    Counts counts = jl_gc_num();
    if (!jl_gc_is_enabled() && counts.deferred + counts.allocated > MOST_ALLOCATED)
        jl_gc_enable(1);
}

void allow_collection() { jl_gc_enable(1); }

bool has_collected() { return jl_gc_num().collections != 0; }
