// When the runtime collects garbage.
//
// Objects of the image that nothing refers to any more are never freed, and keep their pointers to what is. So as long as
// the heap is to be written as a difference (heap.h), which looks at them too, nothing may be freed.
#pragma once

// From now on, garbage is collected only when memory could run out without it.
void put_off_collection();
// As the runtime does it.
void collect_as_usual();
// Whether something may have been freed.
bool has_collected();
