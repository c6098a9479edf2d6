// Writing what an image consists of: the objects of new native code, and the heap.
#pragma once

#include "heap.h"
#include "image.h"
#include "json.h"
#include "layer.h"
#include "timings.h"

#include <string>

class Output {
public:
    // `before` is the image's memory as it was loaded, if that is known. What it takes is added to `timings`.
    Output(Image &image, const Memory *before, const std::string &directory, Timings &timings);

    // Writes native code, in files whose names begin with `name`, and the heap meanwhile; tells of both.
    void write(Json &json, Layer &layer, const char *name);

private:
    Image &image;
    const Memory *before;
    const std::string directory;
    Timings &timings;

    void write_heap(Json &json, Layer &layer);
    void write_whole_heap(Json &json, Layer &layer);
    void write_file(Json &json, const std::string &path, off_t room, const char *bytes, size_t size);
    void compare(const Heap &heap, Layer &layer, bool damaged);
};
