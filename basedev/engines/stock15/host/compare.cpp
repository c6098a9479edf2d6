#include "compare.h"

#include "layouts.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <vector>

namespace {

// A blob read word by word.
class View {
public:
    explicit View(const Blob &blob) : blob(blob), headers(blob.objects.size / 8 + 1), references(headers.size()) {
        size_t i = mark(headers, 0);
        mark(references, i);
        for (const char *p = blob.symbols.begin; p < blob.symbols.begin + blob.symbols.size;) {
            auto length = read_at<uint32_t>(p);
            symbols.push_back(std::string(p + sizeof length, length));
            p += sizeof length + length + 1;
        }
        for (size_t word = REINIT_LIST; blob.tail.at<uint32_t>(word); word += 2)
            reinits[blob.tail.at<uint32_t>(word)] = blob.tail.at<uint32_t>(word + 1);
    }

    const Blob &blob;
    std::string fault;  // what the loader would stumble over
    std::vector<std::string> symbols;
    std::unordered_map<uint32_t, uint32_t> reinits;

    uint64_t word(uint32_t offset) const { return blob.word(offset); }
    const char *at(uint32_t offset) const { return blob.bytes + offset; }
    bool is_header(uint32_t offset) const { return offset / 8 < headers.size() && headers[offset / 8]; }
    bool is_reference(uint32_t offset) const { return references[offset / 8]; }
    // Null where the word is no reference.
    Reference reference(uint32_t offset) const { return is_reference(offset) ? (Reference)word(offset) : 0; }
    const char *constant(Reference reference) const { return blob.constants.begin + 8 * (size_t)offset_in(reference); }

private:
    std::vector<bool> headers, references;

    size_t mark(std::vector<bool> &marks, size_t i) {
        for (; uint32_t offset = blob.relocations.at<uint32_t>(i); i++) {
            if (offset % 8 || offset + 8 > blob.objects.size)
                fault = "a relocation of no word, " + std::to_string(offset);
            else if (headers[offset / 8] || marks[offset / 8])
                fault = "two relocations of the word at " + std::to_string(offset);
            else
                marks[offset / 8] = true;
        }
        return i + 1;
    }
};

// What an object is whatever blob it stands in: enough to tell keys of a table apart.
class Signatures {
public:
    explicit Signatures(const View &view) : view(view) {}

    uint64_t of(Reference reference, int depth = 6) {
        switch (kind_of(reference)) {
        case DATA: return reference ? of_object(offset_in(reference), depth) : 1;
        case SYMBOL: return of_text(view.symbols[offset_in(reference)]);
        default: return mixed(reference, 2);
        }
    }

private:
    const View &view;

    static uint64_t mixed(uint64_t a, uint64_t b) { return (a * 0x9e3779b97f4a7c15 ^ (a >> 29)) + b; }
    static uint64_t of_text(const std::string &text) { return std::hash<std::string>()(text); }

    uint64_t of_words(uint64_t hash, uint32_t begin, size_t size, int depth) {
        for (uint32_t offset = begin; offset < begin + size; offset += 8)
            hash = mixed(hash, view.is_reference(offset) ? of(view.reference(offset), depth) : view.word(offset));
        return hash;
    }

    uint64_t of_object(uint32_t offset, int depth) {
        if (!view.is_header(offset - 8))
            return 3;
        auto type = (Reference)view.word(offset - 8);
        uint32_t type_name = offset_in(view.reference(offset_in(type) + (uint32_t)offsetof(jl_datatype_t, name)));
        const std::string &name = view.symbols[offset_in(view.reference(type_name))];
        uint64_t hash = of_text(name);
        if (depth == 0)
            return hash;
        if (name == "String")
            return mixed(hash, of_text(std::string(view.at(offset + 8), view.word(offset))));
        if (name == "Module")
            return of_words(hash, offset, 8, depth - 1);
        if (name == "TypeName")
            return of_words(hash, offset, 16, depth - 1);
        if (name == "DataType") {
            hash = of_words(hash, offset + (uint32_t)offsetof(jl_datatype_t, name), 8, depth - 1);
            return of_words(hash, offset + (uint32_t)offsetof(jl_datatype_t, parameters), 8, depth - 1);
        }
        if (name == "Method")
            return of_words(hash, offset, offsetof(jl_method_t, ambig), depth - 1);
        if (name == "SimpleVector")
            return of_words(hash, offset, 8 + 8 * view.word(offset), depth - 1);
        if (name == "Array")
            return mixed(hash, view.word(offset + (uint32_t)offsetof(jl_array_t, length)));
        auto size = read_at<int32_t>(view.at(offset_in(type) + (uint32_t)offsetof(jl_datatype_t, size)));
        return of_words(hash, offset, (size_t)size / 8 * 8, depth - 1);
    }
};

// What led from one object to another.
struct Link {
    Link(const char *what, uint64_t number = ~(uint64_t)0) : what(what), number(number) {}
    const char *what;
    uint64_t number;
    std::string text() const { return number == ~(uint64_t)0 ? what : what + (" " + std::to_string(number)); }
};

class Comparison {
public:
    Comparison(const Blob &one, const Blob &other, const std::function<jl_value_t *(uint32_t)> &object_at)
        : a(one), b(other), signatures_a(a), signatures_b(b), object_at(object_at),
          partner_a(one.objects.size / 8 + 1), partner_b(other.objects.size / 8 + 1) {}

    std::string run() {
        for (const View *view : {&a, &b})
            if (!view->fault.empty())
                return view->fault;
        for (size_t i = 0; i <= TASK_STORAGE; i++)
            references(a.blob.tail.at<Reference>(i), b.blob.tail.at<Reference>(i), {"root", i});
        walk();
        slots();
        walk();
        functions();
        for (size_t i : {(size_t)GENSYM_COUNTER, (size_t)WORLD_COUNTER, (size_t)INFERENCE_WORLD})
            if (a.blob.tail.at<uint32_t>(i) != b.blob.tail.at<uint32_t>(i))
                differ({"counter", i});
        return found;
    }

private:
    struct Visit {
        uint32_t a, b;
        size_t from;  // the visit that led here
        Link by;
    };
    View a, b;
    Signatures signatures_a, signatures_b;
    const std::function<jl_value_t *(uint32_t)> &object_at;
    std::vector<uint32_t> partner_a, partner_b;  // by offset / 8
    std::vector<Visit> visits;
    size_t current = 0;
    bool at_root = true;
    std::string found;

    void differ(const std::string &what) {
        if (!found.empty())
            return;
        std::string path = what;
        if (!at_root)
            for (size_t i = current;; i = visits[i].from) {
                jl_value_t *object = object_at(visits[i].a);
                path = visits[i].by.text() + " (" + (object ? jl_typeof_str(object) : "?") + ") > " + path;
                if (visits[i].from == i)
                    break;
            }
        found = path;
    }

    // Of what two references lead to, or two words that may be references.
    void references(Reference one, Reference other, const Link &by) {
        if (kind_of(one) != kind_of(other) || !one != !other)
            return differ(by.text() + ": " + told(a, one) + ", not " + told(b, other));
        if (kind_of(one) == SYMBOL) {
            if (a.symbols[offset_in(one)] != b.symbols[offset_in(other)])
                differ(by.text() + ": " + told(a, one) + ", not " + told(b, other));
        }
        else if (kind_of(one) != DATA) {
            if (one != other)
                differ(by.text() + ": " + told(a, one) + ", not " + told(b, other));
        }
        else if (one) {
            visit(one, other, by);
        }
    }
    void fields(uint32_t one, uint32_t other, const Link &by) {
        if (a.is_reference(one) != b.is_reference(other))
            return differ(by.text() + ": only one is a reference");
        if (a.is_reference(one))
            references(a.reference(one), b.reference(other), by);
        else if (a.word(one) != b.word(other))
            differ(by.text() + ": " + std::to_string(a.word(one)) + ", not " + std::to_string(b.word(other)));
    }
    void bytes(const char *one, const char *other, size_t size, const Link &by) {
        if (memcmp(one, other, size))
            differ(by.text() + ": other bytes");
    }

    static std::string told(const View &view, Reference reference) {
        if (!reference)
            return "nothing";
        if (kind_of(reference) == SYMBOL)
            return ":" + view.symbols[offset_in(reference)];
        std::string kind = std::to_string(kind_of(reference));
        return "reference of kind " + kind + " to " + std::to_string(offset_in(reference));
    }

    bool pair(uint32_t one, uint32_t other, const Link &by) {
        uint32_t &known_a = partner_a[one / 8], &known_b = partner_b[other / 8];
        if (known_a == other && known_b == one)
            return false;
        if (known_a || known_b) {
            differ(by.text() + ": another object than elsewhere");
            return false;
        }
        known_a = other;
        known_b = one;
        return true;
    }

    void visit(uint32_t one, uint32_t other, const Link &by) {
        if (!found.empty())
            return;
        if (!a.is_header(one - 8) || !b.is_header(other - 8))
            return differ(by.text() + ": no object");
        if (pair(one, other, by))
            visits.push_back({one, other, at_root ? visits.size() : current, by});
    }

    size_t walked = 0;
    void walk() {
        at_root = false;
        for (; walked < visits.size() && found.empty(); walked++) {
            current = walked;
            objects(visits[walked].a, visits[walked].b);
        }
        at_root = true;
    }

    void objects(uint32_t one, uint32_t other) {
        jl_value_t *object = object_at(one);
        if (!object)
            return differ("an object that memory does not have");
        references((Reference)a.word(one - 8), (Reference)b.word(other - 8), "type");
        auto *type = (jl_datatype_t *)jl_typeof(object);
        auto reinit_of = [](const View &view, uint32_t offset) {
            auto entry = view.reinits.find(offset);
            return entry == view.reinits.end() ? 0 : entry->second;
        };
        if (reinit_of(a, one) != reinit_of(b, other))
            return differ("only one is made anew by the loader");
        if (jl_is_array(object)) {
            arrays(one, other, (jl_array_t *)object);
        }
        else if (type == jl_module_type) {
            modules(one, other);
        }
        else if (jl_is_svec(object)) {
            for (uint32_t i = 0; i <= jl_svec_len(object); i++)
                fields(one + i * 8, other + i * 8, {"element", i});
        }
        else if (jl_is_string(object)) {
            fields(one, other, "length");
            if (found.empty())
                bytes(a.at(one + 8), b.at(other + 8), a.word(one) + 1, "characters");
        }
        else if (jl_is_cpointer_type((jl_value_t *)type)) {
            fields(one, other, "pointer");
        }
        else if (jl_datatype_nfields(type) == 0) {
            bytes(a.at(one), b.at(other), jl_datatype_size(type), "value");
        }
        else if (is_bigint(type)) {
            fields(one, other, "size");
            auto limbs = read_at<SerializedBigInt>(a.at(one)).allocated;
            if (found.empty())
                bytes(a.constant(a.reference(one + 8)), b.constant(b.reference(other + 8)), (size_t)limbs * 8, "limbs");
        }
        else {
            structs(one, other, type);
        }
    }

    void structs(uint32_t one, uint32_t other, jl_datatype_t *type) {
        jl_svec_t *names = type->name->names;
        auto named = [&](size_t i) {
            bool has_name = names && i < jl_svec_len(names);
            return has_name ? Link(jl_symbol_name((jl_sym_t *)jl_svecref(names, i))) : Link("field", i);
        };
        for (size_t i = 0; i < jl_datatype_nfields(type); i++) {
            auto at = (uint32_t)jl_field_offset(type, (int)i);
            size_t size = jl_field_size(type, (int)i);
            if (type == jl_datatype_type && at == offsetof(jl_datatype_t, layout))
                layouts(a.reference(one + at), b.reference(other + at));
            else if (i == 0 && is_iddict(type))
                tables(offset_in(a.reference(one)), offset_in(b.reference(other)));
            else if (jl_field_isptr(type, (int)i))
                fields(one + at, other + at, named(i));
            else if (type == jl_code_instance_type && at >= offsetof(jl_code_instance_t, invoke))
                fields(one + at, other + at, named(i));
            else if (at % 8 == 0)
                parts(one + at, other + at, size, i);
            else
                bytes(a.at(one + at), b.at(other + at), size, {"field", i});
        }
    }
    // Of a struct that stands in another one, or in an array.
    void parts(uint32_t one, uint32_t other, size_t size, size_t number) {
        size_t words = size / 8 * 8;
        for (uint32_t i = 0; i < words; i += 8)
            fields(one + i, other + i, {"part", number});
        bytes(a.at(one + (uint32_t)words), b.at(other + (uint32_t)words), size - words, {"part", number});
    }

    void layouts(Reference one, Reference other) {
        if (!one != !other)
            return differ("only one has a layout");
        if (one)
            bytes(a.constant(one), b.constant(other), layout_size((jl_datatype_layout_t *)a.constant(one)), "layout");
    }

    void arrays(uint32_t one, uint32_t other, jl_array_t *array) {
        size_t behind = sizeof(void *);
        bytes(a.at(one + 8), b.at(other + 8), array_header_size(array) - behind, "header of the array");
        if (!found.empty())
            return;
        auto *header = (jl_array_t *)a.at(one);
        Reference data_a = a.reference(one), data_b = b.reference(other);
        size_t size = data_size(header);
        if (!has_references(header)) {
            if (jl_array_isbitsunion(array))
                size += jl_array_len(header);
            return bytes(a.constant(data_a), b.constant(data_b), size, "data");
        }
        for (size_t i = 0; i < jl_array_len(header); i++)
            parts(offset_in(data_a) + (uint32_t)i * header->elsize, offset_in(data_b) + (uint32_t)i * header->elsize,
                  header->elsize, i);
    }

    // Tables of IdDicts, whose order has no meaning.
    void tables(uint32_t one, uint32_t other) {
        auto sorted = [](const View &view, Signatures &signatures, uint32_t table) {
            std::vector<std::pair<uint64_t, uint32_t>> keys;
            auto *array = (const jl_array_t *)view.at(table);
            uint32_t data = offset_in(view.reference(table));
            for (size_t i = 0; i + 1 < jl_array_len(array); i += 2)
                if (view.reference(data + 8 * (uint32_t)i + 8))
                    keys.push_back({signatures.of(view.reference(data + 8 * (uint32_t)i)), data + 8 * (uint32_t)i});
            std::sort(keys.begin(), keys.end());
            return keys;
        };
        auto keys_a = sorted(a, signatures_a, one), keys_b = sorted(b, signatures_b, other);
        if (keys_a.size() != keys_b.size())
            return differ(std::to_string(keys_a.size()) + " keys, not " + std::to_string(keys_b.size()));
        for (size_t i = 0; i < keys_a.size(); i++) {
            if (keys_a[i].first != keys_b[i].first)
                return differ("other keys");
            fields(keys_a[i].second, keys_b[i].second, "key");
            fields(keys_a[i].second + 8, keys_b[i].second + 8, "value");
        }
    }

    void modules(uint32_t one, uint32_t other) {
        for (uint32_t at : {(uint32_t)offsetof(jl_module_t, name), (uint32_t)offsetof(jl_module_t, parent),
                            (uint32_t)(offsetof(jl_module_t, bindings) + offsetof(htable_t, size)),
                            (uint32_t)(offsetof(jl_module_t, usings) + offsetof(arraylist_t, len))})
            fields(one + at, other + at, {"word of the module", at});
        const auto rest = (uint32_t)offsetof(jl_module_t, build_id);
        const size_t end = offsetof(jl_module_t, istopmod) + 1;
        bytes(a.at(one + rest), b.at(other + rest), end - rest, "numbers of the module");
        if (!found.empty())
            return;
        const auto items = (uint32_t)(offsetof(jl_module_t, usings) + offsetof(arraylist_t, items));
        uint64_t used = a.word(one + (uint32_t)(offsetof(jl_module_t, usings) + offsetof(arraylist_t, len)));
        for (uint32_t i = 0; i < used; i++)
            fields(offset_in(a.reference(one + items)) + i * 8, offset_in(b.reference(other + items)) + i * 8, "using");
        auto named = [](const View &view, uint32_t module) {
            std::map<std::string, uint32_t> names;
            uint64_t count = view.word(module + (uint32_t)(offsetof(jl_module_t, bindings) + offsetof(htable_t, size)));
            for (uint32_t i = 0; i < count; i++) {
                uint32_t at = module + (uint32_t)(sizeof(jl_module_t) + i * sizeof(SerializedBinding) + 8);
                bool sound = view.is_header(at - 8) && (Reference)view.word(at - 8) == reference_to(BINDING, 0);
                names[sound ? view.symbols[offset_in(view.reference(at))] : ""] = at;
            }
            return names;
        };
        auto names_a = named(a, one), names_b = named(b, other);
        for (auto &name : names_a) {
            auto twin = names_b.find(name.first);
            if (name.first.empty() || twin == names_b.end())
                return differ("name " + name.first + " is too many");
            const Link by(a.symbols[offset_in(a.reference(name.second))].c_str());
            pair(name.second, twin->second, by);
            for (auto field : {(uint32_t)offsetof(jl_binding_t, value), (uint32_t)offsetof(jl_binding_t, globalref),
                               (uint32_t)offsetof(jl_binding_t, owner)})
                fields(name.second + field, twin->second + field, by);
            bytes(a.at(name.second + (uint32_t)offsetof(jl_binding_t, constp)),
                  b.at(twin->second + (uint32_t)offsetof(jl_binding_t, constp)), 2, by);
        }
    }

    void slots() {
        size_t count = std::max(a.blob.gvars.count<Reference>(), b.blob.gvars.count<Reference>());
        for (size_t i = 0; i < count; i++) {
            Reference one = i < a.blob.gvars.count<Reference>() ? a.blob.gvars.at<Reference>(i) : 0;
            Reference other = i < b.blob.gvars.count<Reference>() ? b.blob.gvars.at<Reference>(i) : 0;
            Link by("slot", i + 1);
            bool binding = kind_of(one) == DATA && one && (Reference)a.word(one - 8) == reference_to(BINDING, 0);
            if (!binding)
                references(one, other, by);
            else if (kind_of(other) != DATA || partner_a[one / 8] != other)
                differ(by.text() + ": another name");
        }
    }

    void functions() {
        size_t count = std::max(a.blob.fvars.count<uint64_t>(), b.blob.fvars.count<uint64_t>());
        for (size_t i = 0; i < count; i++) {
            auto one = i < a.blob.fvars.count<uint64_t>() ? (uint32_t)a.blob.fvars.at<uint64_t>(i) : 0;
            auto other = i < b.blob.fvars.count<uint64_t>() ? (uint32_t)b.blob.fvars.at<uint64_t>(i) : 0;
            bool wrapper = one >> 31;
            uint32_t owner_a = wrapper ? ~one : one, owner_b = other >> 31 ? ~other : other;
            if (wrapper != (bool)(other >> 31) || !one != !other || (one && partner_a[owner_a / 8] != owner_b))
                differ("function " + std::to_string(i + 1) + " has another owner");
        }
    }
};

}  // namespace

std::string difference(const Blob &one, const Blob &other, const std::function<jl_value_t *(uint32_t)> &object_at) {
    return Comparison(one, other, object_at).run();
}
