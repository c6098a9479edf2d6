#include "output.h"

#include "compare.h"
#include "garbage.h"
#include "requests.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

static const off_t ELF_HEADER_ROOM = 64;

Output::Output(Image &image, const Memory *before, const std::string &directory, Timings &timings)
    : image(image), before(before), directory(directory), timings(timings) {}

void Output::write(Json &json, Layer &layer, const char *name) {
    layer.start_emission(directory, name);
    write_heap(json, layer);
    auto objects = layer.finish_emission();
    timings.lap("emit");
    json.key("objects").open('[');
    for (auto &object : objects)
        json.string(object);
    json.close(']').key("fvars").number(layer.fvars).key("gvars").number(layer.gvars);
    json.key("recompiled").number((long long)layer.compiled);
    json.key("calls_into_base").number((long long)layer.calls_into_base);
    json.key("calls_through_runtime").number((long long)layer.calls_through_runtime);
}

// Of a layer on the image as a recipe (recipe.h), where that can be; otherwise all of it, with the reason.
void Output::write_heap(Json &json, Layer &layer) {
    const char *setting = getenv("BASEDEV_HEAP");  // stock, compare, or damaged (a comparison that has to fail)
    std::string wish = setting ? setting : "";
    std::string reason = !layer.chained      ? "all code is compiled anew"
                         : wish == "stock" ? "BASEDEV_HEAP=stock"
                         : has_collected() ? "so much was allocated that garbage had to be collected"
                                           : "";
    if (reason.empty()) {
        Heap heap(image, layer.functions(), layer.values(), before);
        reason = heap.reason;
        if (reason.empty()) {
            timings.lap("heap");
            if (wish == "compare" || wish == "damaged")
                compare(heap, layer, wish == "damaged");
            std::string records = heap.recipe.records();
            write_file(json, directory + "/heap.recipe", 0, records.data(), records.size());
        }
    }
    if (!reason.empty())
        write_whole_heap(json, layer);
    json.key("whole_heap_reason").string(reason);
}

// Ends the process when the runtime's serializer writes another heap.
void Output::compare(const Heap &heap, Layer &layer, bool damaged) {
    std::string ours = heap.recipe.assembled();
    if (damaged)
        for (jl_code_instance_t *code : image.order)
            if (jl_is_method(code->def->def.value)) {
                ours[image.offset_of(&code->def->def.method->line)] ^= 1;
                break;
            }
    ios_t *stock = jl_create_system_image(layer.description());
    auto object_at = [&](uint32_t offset) { return heap.object_at(offset); };
    std::string where = difference(Blob(ours.data()), Blob(stock->buf), object_at);
    ios_close(stock);
    if (!where.empty())
        fail("the heap is not the one that Julia writes: " + where);
    timings.lap("compare");
}

void Output::write_whole_heap(Json &json, Layer &layer) {
    ios_t *heap = jl_create_system_image(layer.description());
    std::string missing = layer.chained ? image.what_is_missing(heap->buf) : "";
    if (!missing.empty())
        fail("the new heap lost " + missing + ", which kept native code uses");
    timings.lap("heap");
    // room for the header that makes an object file of it
    write_file(json, directory + "/heap.o", ELF_HEADER_ROOM, heap->buf, heap->size);
}

void Output::write_file(Json &json, const std::string &path, off_t room, const char *bytes, size_t size) {
    int file = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (file < 0 || lseek(file, room, SEEK_SET) != room)
        fail("cannot write " + path + ": " + strerror(errno));
    write_all(file, bytes, size);
    if (close(file))
        fail("cannot write " + path + ": " + strerror(errno));
    json.key("heap").string(path);
    timings.lap("write heap");
}
