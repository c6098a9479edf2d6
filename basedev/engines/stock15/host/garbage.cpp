// Sources: src/gc.c of Julia 1.5.3. The thread's count of allocated bytes begins below zero, and the collector runs when
// it gets there (maybe_collect).
#include "garbage.h"

#include "runtime.h"

#include <algorithm>
#include <unistd.h>

namespace {

const int64_t MOST_ALLOCATED = 3LL << 30, USUAL = 32LL << 20;  // bytes

// jl_gc_num_t, of which the headers know nothing.
struct Counts {
    int64_t allocated, deferred, freed;
    uint64_t calls_malloc, calls_realloc, from_pools, big, calls_free, total_time, total_allocated, since_sweep;
    size_t interval;
    int collections, full_collections;
};

extern "C" Counts jl_gc_num(void);

}  // namespace

void put_off_collection() {
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    jl_get_ptls_states()->gc_num.allocd = -std::min(MOST_ALLOCATED, memory / 4);
}

void collect_as_usual() { jl_get_ptls_states()->gc_num.allocd = -USUAL; }

bool has_collected() { return jl_gc_num().collections != 0; }
