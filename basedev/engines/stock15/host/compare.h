// Whether two blobs load to the same heap.
#pragma once

#include "image.h"

#include <functional>
#include <string>

// Walks both from what the runtime knows by name, and compares them object by object: types, sizes, contents, what they
// refer to, and the functions and slots of native code. Where an object stands makes no difference. Says where the
// first difference is; nothing when there is none.
//
// `object_at` gives the object in memory that an offset of the first blob stands for: its type tells what is where in
// it.
std::string difference(const Blob &one, const Blob &other, const std::function<jl_value_t *(uint32_t)> &object_at);
