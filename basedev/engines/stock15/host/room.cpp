#include "room.h"

#include <cstdlib>

static const size_t WORDS_OF_A_NAME = sizeof(SerializedBinding) / sizeof(void *);

void leave_room_for_names(const Image &image) {
    for (jl_value_t *object : image.all_of(jl_module_type)) {
        auto *module = (jl_module_t *)object;
        if (module == jl_main_module)  // which programs have use more modules; nothing is edited there
            continue;
        // The list of used modules comes behind that of the names, and is written as long as it may become.
        arraylist_t &usings = module->usings;
        size_t names = module->bindings.size / 2, room = (64 + names / 8) * WORDS_OF_A_NAME;
        auto **items = (void **)calloc(usings.len + room, sizeof(void *));
        if (!items)
            fail("not enough memory");
        memcpy(items, usings.items, usings.len * sizeof(void *));
        usings.items = items;
        usings.max = usings.len + room;
    }
}
