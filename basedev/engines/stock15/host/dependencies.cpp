#include "dependencies.h"

#include "child.h"
#include "inference.h"
#include "methods.h"

#include <cstdio>
#include <cstring>

namespace {

// The record: pairs of offsets in the image, of an instance and of one whose result used it for constants; the latter
// twice where it is unstable.
using Pair = std::pair<uint32_t, uint32_t>;

// Those of every `parts`th result of the image.
std::vector<Pair> find_pairs(const Image &image, size_t part, size_t parts) {
    std::vector<Pair> pairs;
    size_t world = enter_newest_world();
    Inference inference(world);
    const auto &codes = image.all_of(jl_code_instance_type);
    // What nothing refers to is in an image too; what inference would attach to it might be freed.
    std::unordered_set<jl_method_instance_t *> reached;
    for_each_method(image, [&](jl_methtable_t *, jl_typemap_entry_t *entry) {
        jl_svec_t *own = jl_is_method(entry->func.value) ? entry->func.method->specializations : nullptr;
        for (size_t i = 0; own && i < jl_svec_len(own); i++)
            reached.insert((jl_method_instance_t *)jl_svecref(own, i));
    });
    for (size_t i = part; i < codes.size(); i += parts) {
        auto *code = (jl_code_instance_t *)codes[i];
        jl_method_instance_t *instance = code->def;
        if (!jl_is_method(instance->def.value) || !reached.count(instance) || result_of(instance, world) != code)
            continue;
        jl_method_t *method = instance->def.method;
        if (!method->source && !method->generator)
            continue;
        uint32_t user = image.offset_of(instance);
        size_t min_world = code->min_world;
        code->min_world = code->max_world = world - 1;
        bool stable = inference.infer(instance) && same_result(code, result_of(instance, world));
        for (jl_method_instance_t *other : inference.not_cached) {
            if (image.contains(other))
                pairs.push_back({image.offset_of(other), user});
            else
                stable = false;
        }
        if (!stable)
            pairs.push_back({user, user});
        // as it was: the others are to be inferred with what the image has
        for (jl_method_instance_t *changed : inference.cached)
            for (jl_code_instance_t **link = &changed->cache; *link;) {
                if (!image.contains(*link))
                    *link = (*link)->next;
                else
                    link = &(*link)->next;
            }
        code->min_world = min_world;
        code->max_world = ALWAYS;
    }
    return pairs;
}

}  // namespace

Dependencies::Instances Dependencies::record(const Image &image, const std::string &path) {
    auto half = [&](size_t part) {
        return [&image, part] {
            auto pairs = find_pairs(image, part, 2);
            return std::string((const char *)pairs.data(), pairs.size() * sizeof(Pair));
        };
    };
    FILE *file = fopen(path.c_str(), "we");
    if (!file)
        fail("cannot write " + path + ": " + strerror(errno));
    Instances unstable;
    for (auto &found : in_children("inferring the image once more", {half(0), half(1)})) {
        fwrite(found.data(), 1, found.size(), file);
        auto *pairs = (const Pair *)found.data();
        for (size_t i = 0; i < found.size() / sizeof(Pair); i++)
            if (pairs[i].first == pairs[i].second)
                unstable.push_back((jl_method_instance_t *)image.at(pairs[i].first));
    }
    if (ferror(file) || fclose(file))
        fail("cannot write " + path + ": " + strerror(errno));
    return unstable;
}

void Dependencies::read(const Image &image, const std::string &path) {
    FILE *file = fopen(path.c_str(), "re");
    if (!file)
        fail("cannot read " + path + ": " + strerror(errno));
    Pair pair;
    while (fread(&pair, sizeof pair, 1, file) == 1) {
        auto *instance = (jl_method_instance_t *)image.at(pair.first);
        auto *user = (jl_method_instance_t *)image.at(pair.second);
        if (pair.first == pair.second)
            unstable.insert(user);
        else
            add(instance, user);
    }
    fclose(file);
}

std::unordered_map<jl_method_instance_t *, size_t> Dependencies::code_read_for(const Instances &those) const {
    auto size = [](jl_method_instance_t *instance) {
        jl_value_t *source = instance->def.method->source;
        return source && jl_typeis(source, jl_array_uint8_type) ? jl_array_len(source) : 0;
    };
    std::unordered_map<jl_method_instance_t *, size_t> read;
    for (jl_method_instance_t *instance : those)
        read[instance] = size(instance);
    for (auto &entry : users)
        for (jl_method_instance_t *user : entry.second) {
            auto found = read.find(user);
            if (found != read.end())
                found->second += size(entry.first);
        }
    return read;
}
