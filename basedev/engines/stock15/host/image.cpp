// Reading the image's own records. Layout: src/staticdata.c of Julia 1.5.3, jl_save_system_image_to_stream.
#include "image.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

template <class T> T symbol(void *library, const char *name) {
    void *address = dlsym(library, name);
    if (!address)
        fail(std::string("the image has no symbol ") + name);
    return (T)address;
}

// The bytes of the file that were loaded at `address`; the copy in memory has been relocated meanwhile.
const char *pristine(const char *path, const link_map *map, const char *address) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status))
        fail(std::string("cannot read ") + path);
    const char *bytes = (const char *)mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (bytes == MAP_FAILED)
        fail(std::string("cannot map ") + path);
    auto *header = (const Elf64_Ehdr *)bytes;
    auto *segment = (const Elf64_Phdr *)(bytes + header->e_phoff);
    size_t wanted = (size_t)address - map->l_addr;
    for (int i = 0; i < header->e_phnum; i++, segment++)
        if (segment->p_type == PT_LOAD && segment->p_vaddr <= wanted &&
            wanted < segment->p_vaddr + segment->p_filesz)
            return bytes + segment->p_offset + (wanted - segment->p_vaddr);
    fail("the image's data is in no segment of its file");
}

std::vector<jl_value_t *> read_symbols(Section section) {
    std::vector<jl_value_t *> symbols;
    const char *p = section.begin, *end = p + section.size;
    while (p < end) {
        auto length = read_at<uint32_t>(p);
        p += sizeof length;
        symbols.push_back((jl_value_t *)jl_symbol_n(p, length));
        p += length + 1;
    }
    return symbols;
}

// Which records of a table are set.
std::vector<bool> filled(Section table, size_t record_size) {
    std::vector<bool> set(table.size / record_size);
    for (size_t i = 0; i < set.size(); i++) {
        uint32_t record;
        memcpy(&record, table.begin + i * record_size, sizeof record);
        set[i] = record != 0;
    }
    return set;
}

}  // namespace

// Tagged references name the root task and the boxed small integers (get_item_for_reloc).
jl_value_t *tagged_value(uint32_t tag) {
    if (tag == 0)
        return (jl_value_t *)jl_get_ptls_states()->root_task;
    tag -= 1;
    if (tag < SMALL_INTEGERS)
        return jl_box_int64((int64_t)tag - SMALL_INTEGERS / 2);
    tag -= SMALL_INTEGERS;
    if (tag < SMALL_INTEGERS)
        return jl_box_int32((int32_t)tag - (int32_t)SMALL_INTEGERS / 2);
    return jl_box_uint8((uint8_t)(tag - SMALL_INTEGERS));
}

void fail(const std::string &message) {
    fprintf(stderr, "host: %s\n", message.c_str());
    fflush(stderr);
    _exit(4);
}

void Image::load(const char *path) {
    void *library = dlopen(path, RTLD_NOLOAD | RTLD_LAZY);
    if (!library)
        fail(std::string(path) + " is not the image that was loaded");
    data = symbol<char *>(library, "jl_system_image_data");
    const char *file = pristine(path, (const link_map *)library, data);
    blob = Blob(file);
    symbols = read_symbols(blob.symbols);
    tagged = (const uint32_t *)(data + (blob.relocations.begin - file));
    filled_gvars = filled(blob.gvars, sizeof(uint32_t));
    filled_fvars = filled(blob.fvars, sizeof(uint64_t));

    auto value_of = [&](Reference reference) -> jl_value_t * {
        uint32_t offset = offset_in(reference);
        switch (kind_of(reference)) {
        case DATA: return (jl_value_t *)(data + offset);
        case SYMBOL: return symbols[offset];
        case TAG: return tagged_value(offset);
        default: fail("a gvar of the image refers to something unknown");
        }
    };

    auto *gvars_base = symbol<char *>(library, "jl_sysimg_gvars_base");
    auto *gvars_offsets = symbol<int32_t *>(library, "jl_sysimg_gvars_offsets");
    gvars = *gvars_offsets++;
    for (size_t i = 0; i < blob.gvars.count<Reference>(); i++) {
        auto reference = blob.gvars.at<Reference>(i);
        if (!reference)
            continue;
        jl_value_t *value = value_of(reference);
        *(jl_value_t **)(gvars_base + gvars_offsets[i]) = value;
        gvar_of.emplace(value, i + 1);
    }
    *symbol<void **>(library, "jl_get_ptls_states_slot") = symbol<void *>(RTLD_DEFAULT, "jl_get_ptls_states");
    *symbol<size_t *>(library, "jl_tls_offset") = 0;

    auto *fvars_base = symbol<char *>(library, "jl_sysimg_fvars_base");
    auto *fvars_offsets = symbol<int32_t *>(library, "jl_sysimg_fvars_offsets");
    fvars = *fvars_offsets++;
    for (size_t i = 0; i < blob.fvars.count<uint64_t>(); i++) {
        auto offset = (uint32_t)blob.fvars.at<uint64_t>(i);
        if (!offset)
            continue;
        bool specialized = !(offset >> 31);  // the wrapper for jl_invoke is recorded inverted
        if (!specialized)
            offset = ~offset;
        auto *code = (jl_code_instance_t *)(data + offset);
        if (!native.count(code))
            order.push_back(code);
        NativeCode &entry = native[code];
        if (!specialized) {
            entry.invoke = i + 1;
            code->invoke = (jl_callptr_t)(fvars_base + fvars_offsets[i]);
            continue;
        }
        entry.specialized = i + 1;
        code->specptr.fptr = fvars_base + fvars_offsets[i];
        code->isspecsig = 1;
        if (entry.invoke == INVOKE_NONE) {
            // Which entry of the runtime calls it stands in the file only: in memory it reads NULL.
            auto reference = (Reference)blob.word(offset + offsetof(jl_code_instance_t, invoke));
            if (reference == reference_to(FUNCTION, CALL_BOXED)) {
                entry.invoke = INVOKE_BOXED;
                code->invoke = jl_fptr_args;
            }
            else if (reference == reference_to(FUNCTION, CALL_SPARAMS)) {
                entry.invoke = INVOKE_SPARAMS;
                code->invoke = jl_fptr_sparam;
            }
            else {
                fail("a function of the image has an unknown calling convention");
            }
        }
    }
}

std::string Image::what_is_missing(const char *heap) const {
    Blob written(heap);
    auto now_gvars = filled(written.gvars, sizeof(uint32_t)), now_fvars = filled(written.fvars, sizeof(uint64_t));
    for (size_t i = 0; i < filled_gvars.size(); i++)
        if (filled_gvars[i] && (i >= now_gvars.size() || !now_gvars[i]))
            return "the value of slot " + std::to_string(i + 1);
    for (size_t i = 0; i < filled_fvars.size(); i++)
        if (filled_fvars[i] && (i >= now_fvars.size() || !now_fvars[i]))
            return "the owner of function " + std::to_string(i + 1);
    return "";
}

void Image::look_for(const std::vector<jl_datatype_t *> &types) const {
    std::vector<std::pair<uintptr_t, std::vector<jl_value_t *> *>> wanted;
    for (jl_datatype_t *type : types) {
        auto place = kept.emplace(type, std::vector<jl_value_t *>());
        if (place.second)
            wanted.push_back({(uintptr_t)type, &place.first->second});
    }
    if (wanted.empty())
        return;
    for (const uint32_t *offset = tagged; *offset; offset++) {
        auto *object = (jl_taggedvalue_t *)(data + *offset);
        for (auto &entry : wanted)
            if ((object->header & ~(uintptr_t)15) == entry.first)
                entry.second->push_back(jl_valueof(object));
    }
}

void Image::for_each_object(const std::function<void(jl_value_t *)> &visit) const {
    for (const uint32_t *offset = tagged; *offset; offset++) {
        auto *object = (jl_taggedvalue_t *)(data + *offset);
        if (contains((void *)(object->header & ~(uintptr_t)15)))  // a buffer has a tag that is no type
            visit(jl_valueof(object));
    }
}
