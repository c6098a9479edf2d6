#include "docstrings.h"

#include "evaluate.h"

#include <algorithm>
#include <map>
#include <memory>
#include <cstdint>
#include <vector>

namespace {

jl_value_t *base(const char *name) {
    jl_value_t *value = jl_get_global(jl_base_module, jl_symbol(name));
    if (!value)
        fail(std::string("this Julia has no Base.") + name);
    return value;
}

jl_value_t *checked(jl_value_t *result) {
    if (!result || jl_exception_occurred())
        fail("the tables of docstrings are not as expected");
    return result;
}

// Keys and values, in turn, of an IdDict.
std::vector<std::pair<jl_value_t *, jl_value_t *>> pairs(jl_value_t *table) {
    auto *slots = (jl_array_t *)jl_fieldref(table, 0);
    std::vector<std::pair<jl_value_t *, jl_value_t *>> found;
    for (size_t i = 0; i + 1 < jl_array_len(slots); i += 2) {
        jl_value_t *key = jl_array_ptr_ref(slots, i), *value = jl_array_ptr_ref(slots, i + 1);
        if (key && value)
            found.push_back({key, value});
    }
    return found;
}

// Keys and values of a Dict.
std::vector<std::pair<jl_value_t *, jl_value_t *>> filled(jl_value_t *table) {
    auto *slots = (jl_array_t *)jl_fieldref(table, 0), *keys = (jl_array_t *)jl_fieldref(table, 1);
    auto *values = (jl_array_t *)jl_fieldref(table, 2);
    std::vector<std::pair<jl_value_t *, jl_value_t *>> found;
    for (size_t i = 0; i < jl_array_len(slots); i++)
        if (((char *)slots->data)[i] == 1)
            found.push_back({jl_arrayref(keys, i), jl_arrayref(values, i)});
    return found;
}

jl_array_t *order_of(jl_value_t *several) { return (jl_array_t *)jl_fieldref(several, 0); }
jl_value_t *docs_of(jl_value_t *several) { return jl_fieldref(several, 1); }
jl_value_t *data_of(jl_value_t *docstring) { return jl_fieldref(docstring, 2); }

void remove(jl_value_t *table, jl_value_t *key) {
    checked(jl_call2((jl_function_t *)base("delete!"), table, key));
}

class NoCollection {  // values are held in plain variables here
public:
    NoCollection() : before(jl_gc_enable(0)) {}
    ~NoCollection() { jl_gc_enable(before); }

private:
    int before;
};

}  // namespace

Docstrings::Place Docstrings::place(jl_value_t *docstring) const {
    auto *get = (jl_function_t *)base("get");
    jl_value_t *data = data_of(docstring);
    jl_value_t *path = checked(jl_call3(get, data, (jl_value_t *)jl_symbol("path"), jl_nothing));
    jl_value_t *line = checked(jl_call3(get, data, (jl_value_t *)jl_symbol("linenumber"), jl_nothing));
    Place place = {"", 0};
    if (jl_is_string(path))
        place.file.assign(jl_string_data(path), jl_string_len(path));
    else if (jl_is_symbol(path))
        place.file = jl_symbol_name((jl_sym_t *)path);
    if (jl_is_int64(line))
        place.line = jl_unbox_int64(line);
    return place;
}

Docstrings::Place Docstrings::place_in_base(jl_value_t *docstring) const {
    Place found = place(docstring);
    auto moved = lines_in_base.find(docstring);
    if (moved != lines_in_base.end())
        found.line = moved->second;
    return found;
}

void Docstrings::for_each(jl_module_t *module,
                          const std::function<void(jl_value_t *, jl_value_t *, jl_value_t *)> &visit) const {
    auto *docs = (jl_module_t *)base("Docs");
    auto *name = (jl_sym_t *)jl_get_global(docs, jl_symbol("META"));
    jl_value_t *several_type = jl_get_global(docs, jl_symbol("MultiDoc"));
    jl_value_t *table = name ? jl_get_global(module, name) : nullptr;
    if (table)
        for (auto &entry : pairs(table))
            if (jl_typeof(entry.second) == several_type)
                visit(table, entry.first, entry.second);
}

void Docstrings::for_each_keyword(
    const std::function<void(jl_value_t *, jl_value_t *, jl_value_t *)> &visit) const {
    auto *docs = (jl_module_t *)base("Docs");
    jl_value_t *type = jl_get_global(docs, jl_symbol("DocStr")), *table = jl_get_global(docs, jl_symbol("keywords"));
    if (table)
        for (auto &entry : filled(table))
            if (jl_typeof(entry.second) == type)
                visit(table, entry.first, entry.second);
}

void Docstrings::forget(jl_module_t *module, const std::string &file, long from, long to) {
    NoCollection none;
    auto stood_there = [&](jl_value_t *docstring) {
        Place found = place_in_base(docstring);
        return image.contains(docstring) && from <= found.line && found.line <= to && found.file == file;
    };
    for_each(module, [&](jl_value_t *table, jl_value_t *binding, jl_value_t *several) {
        for (auto &entry : pairs(docs_of(several))) {
            if (!stood_there(entry.second))
                continue;
            remove(docs_of(several), entry.first);
            jl_array_t *order = order_of(several);
            for (size_t i = jl_array_len(order); i-- > 0;)
                if (jl_types_equal(jl_array_ptr_ref(order, i), entry.first))
                    jl_array_del_at(order, i, 1);
        }
        if (jl_array_len(order_of(several)) == 0)
            remove(table, binding);
    });
    for_each_keyword([&](jl_value_t *table, jl_value_t *keyword, jl_value_t *docstring) {
        if (stood_there(docstring))
            remove(table, keyword);
    });
}

void Docstrings::move(const std::string &file, long from, long to, long by) {
    NoCollection none;
    auto move_one = [&](jl_value_t *docstring) {
        if (!image.contains(docstring) || lines_in_base.count(docstring))
            return;
        Place found = place(docstring);
        if (found.file != file || found.line < from || to < found.line)
            return;
        lines_in_base[docstring] = found.line;
        jl_value_t *arguments[] = {data_of(docstring), jl_box_int64(found.line + by),
                                   (jl_value_t *)jl_symbol("linenumber")};
        checked(jl_call((jl_function_t *)base("setindex!"), arguments, 3));
    };
    for (jl_value_t *module : image.all_of(jl_module_type))
        for_each((jl_module_t *)module, [&](jl_value_t *, jl_value_t *, jl_value_t *several) {
            for (auto &entry : pairs(docs_of(several)))
                move_one(entry.second);
        });
    for_each_keyword([&](jl_value_t *, jl_value_t *, jl_value_t *docstring) { move_one(docstring); });
}

// The worlds in which the base image's methods were defined, by file and line. A file that includes another one is
// evaluated around it, which the order of the files does not tell.
class Docstrings::Worlds {
public:
    explicit Worlds(const Image &image) {
        for (jl_value_t *object : image.all_of(jl_method_type)) {
            auto *method = (jl_method_t *)object;
            if (!image.contains(method))
                continue;
            auto known = of_file[jl_symbol_name(method->file)].emplace(method->line, method->primary_world);
            known.first->second = std::min(known.first->second, (size_t)method->primary_world);
        }
    }
    // Of what a docstring there documents: of the next method, or the last one; 0 where the file has none.
    size_t at(const Place &place) const {
        auto file = of_file.find(place.file);
        if (file == of_file.end())
            return 0;
        auto next = file->second.lower_bound(place.line);
        return (next == file->second.end() ? std::prev(next) : next)->second;
    }

private:
    std::unordered_map<std::string, std::map<long, size_t>> of_file;
};

void Docstrings::settle() {
    NoCollection none;
    std::unique_ptr<Worlds> worlds;
    std::unordered_map<std::string, size_t> rank;  // of the files, in the order in which they were included
    IncludedFiles files;
    for (size_t i = 0; i < files.size(); i++)
        rank.emplace(files.path(i), i);
    auto rank_of = [&](const std::string &file) {
        auto found = rank.find(files.full(file));
        return found == rank.end() ? rank.size() : found->second;
    };
    settle_modules(rank_of);
    for (jl_value_t *module : image.all_of(jl_module_type))
        for_each((jl_module_t *)module, [&](jl_value_t *, jl_value_t *, jl_value_t *several) {
            jl_array_t *order = order_of(several);
            struct Entry {
                jl_value_t *signature, *docstring;
                Place place;
            };
            std::vector<Entry> settled, fresh;
            for (size_t i = 0; i < jl_array_len(order); i++) {
                jl_value_t *signature = jl_array_ptr_ref(order, i);
                for (auto &entry : pairs(docs_of(several)))
                    if (jl_types_equal(entry.first, signature)) {
                        auto &list = image.contains(entry.second) ? settled : fresh;
                        list.push_back({signature, entry.second, place(entry.second)});
                        break;
                    }
            }
            if (fresh.size() + settled.size() != jl_array_len(order))
                return;
            bool moved = false;  // past another docstring of its file
            for (size_t i = 0; i < settled.size(); i++)
                for (size_t j = i + 1; j < settled.size(); j++)
                    if (settled[j].place.file == settled[i].place.file &&
                        settled[j].place.line < settled[i].place.line && lines_in_base.count(settled[j].docstring)) {
                        std::swap(settled[i], settled[j]);
                        moved = true;
                    }
            if (fresh.empty() && !moved)
                return;
            for (auto &one : fresh) {
                size_t at = settled.size(), last_of_file = 0;
                bool later = false;
                for (size_t i = 0; i < settled.size() && !later; i++)
                    if (settled[i].place.file == one.place.file) {
                        last_of_file = i + 1;
                        if ((later = settled[i].place.line > one.place.line))
                            at = i;
                    }
                if (!later && last_of_file)
                    at = last_of_file;
                if (!worlds && !later && !last_of_file)
                    worlds.reset(new Worlds(image));
                for (size_t i = 0; i < settled.size() && !later && !last_of_file && at == settled.size(); i++) {
                    size_t own = worlds->at(one.place), other = worlds->at(settled[i].place);
                    if (own && other ? other > own : rank_of(settled[i].place.file) > rank_of(one.place.file))
                        at = i;
                }
                settled.insert(settled.begin() + (long)at, one);
            }
            for (size_t i = 0; i < settled.size(); i++)
                jl_array_ptr_set(order, i, settled[i].signature);
        });
}

static jl_array_t *documented_modules() {
    return (jl_array_t *)jl_get_global((jl_module_t *)base("Docs"), jl_symbol("modules"));
}

Docstrings::Docstrings(const Image &image) : image(image), modules_in_base(jl_array_len(documented_modules())) {}

// A module is in the list since its first docstring.
void Docstrings::settle_modules(const std::function<size_t(const std::string &)> &rank_of) const {
    jl_array_t *modules = documented_modules();
    auto first = [&](jl_value_t *module) {
        std::pair<size_t, long> earliest = {SIZE_MAX, 0};
        for_each((jl_module_t *)module, [&](jl_value_t *, jl_value_t *, jl_value_t *several) {
            for (auto &entry : pairs(docs_of(several))) {
                Place found = place(entry.second);
                earliest = std::min(earliest, std::make_pair(rank_of(found.file), found.line));
            }
        });
        return earliest;
    };
    size_t count = jl_array_len(modules);
    for (size_t i = modules_in_base; i < count; i++) {
        jl_value_t *module = jl_array_ptr_ref(modules, i);
        auto place_of_module = first(module);
        size_t at = 0;
        while (at < i && first(jl_array_ptr_ref(modules, at)) < place_of_module)
            at++;
        for (size_t j = i; j > at; j--)
            jl_array_ptr_set(modules, j, jl_array_ptr_ref(modules, j - 1));
        jl_array_ptr_set(modules, at, module);
    }
}
