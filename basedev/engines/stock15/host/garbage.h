// When the runtime may collect garbage.
//
// Objects of the image that nothing refers to any more are never freed, and keep their pointers to what is. So as long as
// the heap is to be written as a difference (heap.h), which looks at them too, nothing may be freed.
#pragma once

// Puts collection off from now on.
void put_off_collection();
// Allows it when so much has been allocated that memory could run out.
void collect_if_need_be();
// Allows it.
void allow_collection();
// Whether something may have been freed.
bool has_collected();
