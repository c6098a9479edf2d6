#include "heap.h"

#include "layouts.h"

#include <algorithm>
#include <cstdlib>

namespace {

const size_t GC_ALIGNMENT = 16, CACHE_LINE = 64, LARGEST_OFFSET = (1u << 29) - 1;
const size_t WORTH_A_PIECE = 48;  // bytes between two patches of which it is worth telling where they are

size_t array_room(const jl_array_t *array) { return align(array_header_size(array), CACHE_LINE); }

// As it is written (jl_write_values).
jl_array_t written_header(const jl_array_t *array) {
    jl_array_t header = *array;
    if (header.flags.ndims == 1)
        header.maxsize = jl_array_len(array);
    header.offset = 0;
    header.flags.how = header.flags.pooled = header.flags.isshared = 0;
    return header;
}

std::vector<jl_binding_t *> bindings_of(jl_module_t *module) {
    std::vector<jl_binding_t *> bindings;
    for (size_t i = 1; i < module->bindings.size; i += 2) {
        auto *binding = (jl_binding_t *)module->bindings.table[i];
        if ((void *)binding != HT_NOTFOUND)
            bindings.push_back(binding);
    }
    return bindings;
}

using Pairs = std::vector<std::pair<uint64_t, uint64_t>>;

// Keys and values of an IdDict's table.
Pairs pairs_of(const jl_array_t *table) {
    Pairs pairs;
    auto *words = (const uint64_t *)table->data;
    for (size_t i = 0; i + 1 < jl_array_len(table); i += 2)
        if (words[i + 1])
            pairs.push_back({words[i], words[i + 1]});
    std::sort(pairs.begin(), pairs.end());
    return pairs;
}

}  // namespace

// What an object is to have in the blob, word by word.
struct Heap::Contents {
    explicit Contents(size_t size) : words(align(size, 8) / 8), references(words.size()) {}
    void copy(size_t offset, const void *from, size_t size) { memcpy((char *)words.data() + offset, from, size); }
    void word(size_t offset, uint64_t value) {
        words[offset / 8] = value;
        references[offset / 8] = false;
    }
    void reference(size_t offset, Reference value) {
        words[offset / 8] = value;
        references[offset / 8] = true;
    }
    std::vector<uint64_t> words;
    std::vector<bool> references;
};

Heap::Heap(const Image &image, const Functions &functions, const Values &values, const Memory *before)
    : recipe(image.blob.bytes), image(image), base(image.blob), functions(functions), values(values),
      changes(image, before), old_end((uint32_t)align(image.blob.objects.size, sizeof(uint64_t))) {
    if (jl_value_t *arguments = jl_get_global(jl_core_module, jl_symbol("ARGS")))  // as the serializer does
        jl_array_del_end((jl_array_t *)arguments, jl_array_len(arguments));
    for (size_t i = 0; i < image.symbols.size(); i++)
        symbol_numbers[image.symbols[i]] = reference_to(SYMBOL, (uint32_t)i);
    encode_old_modules();
    encode_old_objects();
    encode_constants();
    encode_new_objects();
    record_gvars();
    if (jl_value_t *storage = jl_get_ptls_states()->root_task->tls)
        task_storage = reference(storage);
    encode_new_objects();
    if (old_end + added_objects.size() > LARGEST_OFFSET)
        give_up("the heap is too large");
    if (reason.empty())
        assemble();
}

jl_value_t *Heap::object_at(uint32_t offset) const {
    if (offset < old_end)
        return (jl_value_t *)image.at(offset);
    auto found = object_of.find(offset);
    return found == object_of.end() ? nullptr : found->second;
}

void Heap::give_up(const std::string &why) {
    if (reason.empty())
        reason = why;
}

// ---- places and references ----

uint32_t Heap::allocate(size_t size, bool with_header) {
    size_t begin = old_end + added_objects.size() + (with_header ? sizeof(jl_taggedvalue_t) : 0);
    begin = align(begin, GC_ALIGNMENT);
    added_objects.resize(begin - old_end + align(size, sizeof(uint64_t)));
    return (uint32_t)begin;
}

void Heap::set_word(uint32_t offset, uint64_t value) {
    if (offset >= old_end) {
        memcpy(&added_objects[offset - old_end], &value, sizeof value);
        return;
    }
    bool was_reference = changes.is_reference(offset);
    if (!was_reference && base.word(offset) == value)
        return;
    patches[offset] = value;
    if (was_reference)
        removed_references.push_back(offset);
}

void Heap::set_reference(uint32_t offset, Reference reference) {
    uint64_t value = reference;
    if (offset >= old_end) {
        memcpy(&added_objects[offset - old_end], &value, sizeof value);
        added_references.push_back(offset);
        return;
    }
    bool was_reference = changes.is_reference(offset);
    if (was_reference && base.word(offset) == value)
        return;
    patches[offset] = value;
    if (!was_reference)
        added_references.push_back(offset);
}

void Heap::put(uint32_t offset, const Contents &contents) {
    for (size_t i = 0; i < contents.words.size(); i++)
        if (contents.references[i])
            set_reference(offset + (uint32_t)i * 8, (Reference)contents.words[i]);
        else
            set_word(offset + (uint32_t)i * 8, contents.words[i]);
}

void Heap::put_pointer(uint32_t offset, jl_value_t *object) {
    if (object)
        set_reference(offset, reference(object));
    else
        set_word(offset, 0);
}

Reference Heap::symbol_reference(jl_value_t *symbol) {
    auto known = symbol_numbers.find(symbol);
    if (known != symbol_numbers.end())
        return known->second;
    const char *name = jl_symbol_name((jl_sym_t *)symbol);
    auto length = (uint32_t)strlen(name);
    added_symbols.append((const char *)&length, sizeof length);
    added_symbols.append(name, length + 1);
    return symbol_numbers[symbol] = reference_to(SYMBOL, (uint32_t)symbol_numbers.size());
}

Reference Heap::reference(jl_value_t *object) {
    if (image.contains(object))
        return reference_to(DATA, image.offset_of(object));
    if (jl_is_symbol(object))
        return symbol_reference(object);
    if (object == (jl_value_t *)jl_get_ptls_states()->root_task)
        return reference_to(TAG, 0);
    if (jl_typeis(object, jl_int64_type)) {
        uint64_t number = (uint64_t)jl_unbox_int64(object) + SMALL_INTEGERS / 2;
        if (number < SMALL_INTEGERS)
            return reference_to(TAG, (uint32_t)number + 1);
    }
    else if (jl_typeis(object, jl_int32_type)) {
        uint32_t number = (uint32_t)jl_unbox_int32(object) + SMALL_INTEGERS / 2;
        if (number < SMALL_INTEGERS)
            return reference_to(TAG, number + 1 + SMALL_INTEGERS);
    }
    else if (jl_typeis(object, jl_uint8_type)) {
        return reference_to(TAG, jl_unbox_uint8(object) + 1 + 2 * SMALL_INTEGERS);
    }
    auto known = placed.find(object);
    if (known != placed.end())
        return known->second;
    if (jl_typeis(object, jl_task_type)) {
        give_up("a task is in the heap");
        return 0;
    }
    uint32_t offset = allocate(size_of(object), true);
    placed[object] = reference_to(DATA, offset);
    object_of[offset] = object;
    waiting.push_back(object);
    uint32_t header = offset - sizeof(jl_taggedvalue_t);
    uint64_t type = reference(jl_typeof(object));
    memcpy(&added_objects[header - old_end], &type, sizeof type);
    added_headers.push_back(header);
    return reference_to(DATA, offset);
}

Reference Heap::constant(const void *bytes, size_t size, size_t alignment, size_t zeros) {
    size_t begin = align(base.constants.size, GC_ALIGNMENT), at = align(begin + added_constants.size(), alignment);
    added_constants.resize(at - begin);
    if (bytes)
        added_constants.append((const char *)bytes, size);
    added_constants.append(zeros, '\0');
    return reference_to(CONSTANT, (uint32_t)(at / sizeof(void *)));
}

// ---- objects, as jl_write_values writes them ----

size_t Heap::size_of(jl_value_t *object) const {
    auto *type = (jl_datatype_t *)jl_typeof(object);
    if (jl_is_array(object)) {
        auto *array = (jl_array_t *)object;
        return array_room(array) + (has_references(array) ? data_size(array) : 0);
    }
    if (type == jl_module_type)
        return sizeof(jl_module_t) + bindings_of((jl_module_t *)object).size() * sizeof(SerializedBinding);
    if (jl_is_svec(object))
        return sizeof(jl_svec_t) + jl_svec_len(object) * sizeof(void *);
    if (jl_is_string(object))
        return sizeof(size_t) + jl_string_len(object) + 1;
    if (type == jl_method_type)
        return sizeof(jl_method_t);
    return jl_datatype_size(type);
}

void Heap::encode(jl_value_t *object, uint32_t offset) {
    auto *type = (jl_datatype_t *)jl_typeof(object);
    if (jl_is_array(object)) {
        encode_array((jl_array_t *)object, offset);
    }
    else if (type == jl_module_type) {
        encode_module((jl_module_t *)object, offset);
    }
    else if (jl_is_svec(object)) {
        set_word(offset, jl_svec_len(object));
        for (size_t i = 0; i < jl_svec_len(object); i++)
            put_pointer(offset + (uint32_t)(sizeof(jl_svec_t) + i * 8), jl_svecref(object, i));
    }
    else if (jl_is_cpointer_type((jl_value_t *)type)) {
        set_word(offset, 0);
    }
    else if (jl_is_string(object)) {
        Contents contents(size_of(object));
        contents.copy(0, object, size_of(object) - 1);
        put(offset, contents);
    }
    else if (jl_datatype_nfields(type) == 0) {
        Contents contents(jl_datatype_size(type));
        contents.copy(0, object, jl_datatype_size(type));
        put(offset, contents);
    }
    else {
        encode_fields(object, offset);
    }
}

void Heap::encode_fields(jl_value_t *object, uint32_t offset) {
    auto *type = (jl_datatype_t *)jl_typeof(object);
    auto *bytes = (const char *)object;
    Contents contents(size_of(object));
    if (is_bigint(type)) {
        auto number = read_at<SerializedBigInt>(bytes);
        number.allocated = std::max(1, std::abs(number.size));
        contents.copy(0, &number, 8);
        contents.reference(8, constant(number.limbs, (size_t)number.allocated * 8, 8));
        put(offset, contents);
        return;
    }
    for (size_t i = 0; i < jl_datatype_nfields(type); i++) {
        size_t at = jl_field_offset(type, (int)i);
        if (!(type->mutabl && jl_is_cpointer_type(jl_field_type(type, i))))
            contents.copy(at, bytes + at, jl_field_size(type, (int)i));
    }
    bool keeps_table = is_iddict(type) && same_pairs(object, offset);
    for (uint32_t i = 0; i < type->layout->npointers; i++) {
        size_t at = jl_ptr_offset(type, (int)i) * sizeof(void *);
        if (auto *field = read_at<jl_value_t *>(bytes + at))
            contents.reference(at, keeps_table && at == 0 ? (Reference)base.word(offset) : reference(field));
    }
    if (type == jl_code_instance_type)
        encode_code((jl_code_instance_t *)object, offset, contents);
    else if (type == jl_method_type && ((jl_method_t *)object)->ccallable && offset >= old_end)
        give_up("a new method can be called from C");
    else if (type == jl_datatype_type && ((jl_datatype_t *)object)->layout) {
        auto *layout = ((jl_datatype_t *)object)->layout;
        size_t at = offsetof(jl_datatype_t, layout);
        bool as_it_was = offset < old_end && changes.is_reference(offset + (uint32_t)at) &&
                         changes.loaded((Reference)base.word(offset + (uint32_t)at)) == (uint64_t)layout;
        contents.reference(at, as_it_was ? (Reference)base.word(offset + (uint32_t)at)
                                         : constant(layout, layout_size(layout), 8));
    }
    else if (is_iddict(type) && offset >= old_end)
        added_reinits.push_back({offset, REHASH_IDDICT});
    put(offset, contents);
}

// The loader makes the tables of IdDicts anew; the one in the file stays if it has the same in it.
bool Heap::same_pairs(jl_value_t *iddict, uint32_t offset) const {
    if (offset >= old_end)
        return false;
    auto *then = (jl_array_t *)image.at(offset_in((Reference)base.word(offset)));
    return pairs_of(then) == pairs_of(*(jl_array_t **)iddict);
}

void Heap::encode_code(jl_code_instance_t *code, uint32_t offset, Contents &contents) {
    const size_t invoke = offsetof(jl_code_instance_t, invoke), specialized = offsetof(jl_code_instance_t, specptr);
    contents.word(invoke, 0);
    contents.word(specialized, 0);
    contents.word(offsetof(jl_code_instance_t, isspecsig), 0);
    if (code->invoke == jl_fptr_const_return) {
        contents.reference(invoke, reference_to(FUNCTION, CALL_CONST));
        return;
    }
    if (!jl_is_method(code->def->def.value))
        return;
    if (offset < old_end && changes.is_reference(offset + specialized)) {
        contents.reference(invoke, (Reference)base.word(offset + invoke));
        contents.reference(specialized, (Reference)base.word(offset + specialized));
        return;
    }
    auto found = functions.find(code);
    if (found == functions.end())
        return;
    auto record = [&](uint32_t number, uint64_t value) {
        if (number <= image.fvars)
            return;
        size_t index = number - image.fvars - 1;
        if (added_fvars.size() <= index)
            added_fvars.resize(index + 1);
        added_fvars[index] = (uint32_t)value;
    };
    auto convention = (int32_t)std::get<0>(found->second);
    if (convention == INVOKE_BOXED)
        contents.reference(invoke, reference_to(FUNCTION, CALL_BOXED));
    else if (convention == INVOKE_SPARAMS)
        contents.reference(invoke, reference_to(FUNCTION, CALL_SPARAMS));
    else if (convention != INVOKE_NONE)
        record((uint32_t)convention, ~(uint64_t)offset);
    if (std::get<1>(found->second))
        record(std::get<1>(found->second), offset);
}

// ---- arrays ----

// Whether the data of an array of the image are where they were, and as many.
bool Heap::data_stays(jl_array_t *array, uint32_t offset) const {
    if (offset >= old_end)
        return false;
    jl_array_t header = written_header(array);
    const size_t behind = offsetof(jl_array_t, data) + sizeof header.data;
    return !memcmp((char *)&header + behind, base.bytes + offset + behind, sizeof header - behind) &&
           !memcmp(array + 1, base.bytes + offset + sizeof header, array_header_size(array) - sizeof header) &&
           changes.loaded((Reference)base.word(offset)) == (uint64_t)array->data;
}

void Heap::encode_array(jl_array_t *array, uint32_t offset) {
    if (data_stays(array, offset))
        return;
    Contents contents(array_header_size(array));
    jl_array_t header = written_header(array);
    contents.copy(0, &header, sizeof header);
    contents.copy(sizeof header, array + 1, array_header_size(array) - sizeof header);
    if (has_references(array)) {
        uint32_t data = offset < old_end ? allocate(data_size(array), false) : offset + (uint32_t)array_room(array);
        contents.reference(offsetof(jl_array_t, data), reference_to(DATA, data));
        encode_elements(array, data);
    }
    else {
        Reference data;
        if (jl_is_cpointer_type(jl_tparam0(jl_typeof(array)))) {
            data = constant(nullptr, 0, GC_ALIGNMENT, data_size(array));
        }
        else if (jl_array_isbitsunion(array)) {
            data = constant(array->data, data_size(array), GC_ALIGNMENT);
            added_constants.append(jl_array_typetagdata(array), jl_array_len(array));
        }
        else {  // strings end with a zero
            data = constant(array->data, data_size(array), GC_ALIGNMENT, array->elsize == 1);
        }
        contents.reference(offsetof(jl_array_t, data), data);
    }
    put(offset, contents);
}

void Heap::encode_elements(jl_array_t *array, uint32_t data) {
    auto *words = (jl_value_t **)array->data;
    if (array->flags.ptrarray) {
        for (size_t i = 0; i < jl_array_len(array); i++)
            put_pointer(data + (uint32_t)i * 8, words[i]);
        return;
    }
    auto *type = (jl_datatype_t *)jl_tparam0(jl_typeof(array));
    Contents contents(data_size(array));
    contents.copy(0, array->data, data_size(array));
    for (size_t i = 0; i < jl_array_len(array); i++)
        for (uint32_t j = 0; j < type->layout->npointers; j++) {
            size_t at = i * array->elsize + jl_ptr_offset(type, (int)j) * sizeof(void *);
            if (words[at / 8])
                contents.reference(at, reference(words[at / 8]));
        }
    put(data, contents);
}

void Heap::encode_old_array_word(jl_array_t *array, uint32_t offset, uint32_t word) {
    if (!data_stays(array, offset) || !has_references(array))
        return;
    uint32_t data = image.offset_of(array->data);
    if (word < data || word >= data + data_size(array))
        return;
    auto *type = (jl_datatype_t *)jl_tparam0(jl_typeof(array));
    if (array->flags.ptrarray || is_reference_in(type, (word - data) % array->elsize))
        put_pointer(word, *(jl_value_t **)image.at(word));
    else
        set_word(word, *(uint64_t *)image.at(word));
}

// ---- modules ----

void Heap::encode_binding(jl_binding_t *binding, uint32_t offset) {
    put_pointer(offset + offsetof(jl_binding_t, name), (jl_value_t *)binding->name);
    put_pointer(offset + offsetof(jl_binding_t, value), binding->value);
    put_pointer(offset + offsetof(jl_binding_t, globalref), binding->globalref);
    put_pointer(offset + offsetof(jl_binding_t, owner), (jl_value_t *)binding->owner);
    uint16_t flags;
    memcpy(&flags, &binding->constp, sizeof flags);
    set_word(offset + offsetof(jl_binding_t, constp), flags);
}

void Heap::encode_module(jl_module_t *module, uint32_t offset) {
    const bool is_old = offset < old_end;
    const uint32_t list = offset + (uint32_t)sizeof(jl_module_t);
    Contents contents(sizeof(jl_module_t));
    contents.copy(0, module, sizeof *module);
    contents.reference(offsetof(jl_module_t, name), reference((jl_value_t *)module->name));
    contents.reference(offsetof(jl_module_t, parent), reference((jl_value_t *)module->parent));
    contents.word(offsetof(jl_module_t, primary_world), jl_world_counter);

    // The names: those of the file, and new ones where there is room behind them.
    uint64_t old_count = is_old ? base.word(offset + offsetof(jl_module_t, bindings.size)) : 0, count = old_count;
    const uint32_t old_list_end = list + (uint32_t)(old_count * sizeof(SerializedBinding));
    const uint32_t old_usings = (uint32_t)offsetof(jl_module_t, usings);
    uint64_t room = 0;
    if (is_old && base.word(offset + old_usings + offsetof(arraylist_t, items)) == old_list_end)
        room = base.word(offset + old_usings + offsetof(arraylist_t, max)) * sizeof(void *);
    uint64_t found = 0;
    std::vector<jl_binding_t *> added;
    for (jl_binding_t *binding : bindings_of(module))
        if (image.contains(binding))
            found++;
        else
            added.push_back(binding);
    if (found != old_count)
        return give_up("names of module " + std::string(jl_symbol_name(module->name)) + " are gone");
    if (is_old && added.size() * sizeof(SerializedBinding) > room)
        return give_up("there is no room for more names in module " + std::string(jl_symbol_name(module->name)));
    for (jl_binding_t *binding : added) {
        uint32_t at = list + (uint32_t)(count++ * sizeof(SerializedBinding));
        uint64_t tag = reference_to(BINDING, 0);
        if (at >= old_end)
            memcpy(&added_objects[at - old_end], &tag, sizeof tag);
        else if (changes.is_reference(at))
            set_word(at, tag);
        else
            patches[at] = tag;
        added_headers.push_back(at);
        placed_bindings[binding] = at + (uint32_t)offsetof(SerializedBinding, binding);
    }
    auto &table = module->bindings;
    const size_t bindings = offsetof(jl_module_t, bindings);
    for (size_t i = 0; i < sizeof table; i += 8)
        contents.word(bindings + i, 0);
    contents.word(bindings + offsetof(htable_t, size), count);

    // The used modules.
    const arraylist_t &usings = module->usings;
    const size_t at = offsetof(jl_module_t, usings);
    for (size_t i = 0; i < AL_N_INLINE; i++)
        contents.word(at + offsetof(arraylist_t, _space) + i * 8, 0);
    std::vector<void *> used(usings.items, usings.items + usings.len);
    contents.word(at + offsetof(arraylist_t, len), used.size());
    uint32_t where;
    if (room && added.empty()) {
        where = old_list_end;
        contents.word(at + offsetof(arraylist_t, max), usings.max);
    }
    else if (used.size() <= AL_N_INLINE) {
        where = 0;
        contents.word(at + offsetof(arraylist_t, max), AL_N_INLINE);
    }
    else {
        where = allocate(2 * used.size() * sizeof(void *), false);
        contents.word(at + offsetof(arraylist_t, max), 2 * used.size());
    }
    uint32_t inside = (uint32_t)(at + offsetof(arraylist_t, _space));
    contents.reference(at + offsetof(arraylist_t, items), reference_to(DATA, where ? where : offset + inside));
    for (size_t i = 0; i < used.size(); i++) {
        Reference to = reference((jl_value_t *)used[i]);
        if (where)
            set_reference(where + (uint32_t)i * 8, to);
        else
            contents.reference(inside + i * 8, to);
    }
    put(offset, contents);
    for (jl_binding_t *binding : added)
        encode_binding(binding, placed_bindings[binding]);
    if (!is_old)
        added_reinits.push_back({offset, REBUILD_BINDINGS});
}

void Heap::encode_old_modules() {
    for (size_t i = REINIT_LIST; base.tail.at<uint32_t>(i); i += 2)
        if (base.tail.at<uint32_t>(i + 1) == REBUILD_BINDINGS)
            encode_module((jl_module_t *)image.at(base.tail.at<uint32_t>(i)), base.tail.at<uint32_t>(i));
}

// ---- what changed in the image ----

void Heap::encode_old_objects() {
    const uint32_t *header = image.tagged, *last = image.tagged + changes.headers();
    auto &words = changes.words();
    for (size_t i = 0; i < words.size();) {
        header = std::upper_bound(header, last, words[i]) - 1;
        uint32_t offset = *header + (uint32_t)sizeof(jl_taggedvalue_t), first = words[i], end = header[1];
        size_t begin = i;
        while (i < words.size() && (header + 1 == last || words[i] < end))
            i++;
        auto tag = (Reference)base.word(*header);
        auto *object = (jl_value_t *)image.at(offset);
        if (kind_of(tag) == BINDING) {
            if (first < offset + sizeof(jl_binding_t))
                encode_binding((jl_binding_t *)object, offset);
            continue;
        }
        jl_value_t *type = jl_typeof(object);
        if (type == (jl_value_t *)jl_module_type)
            continue;  // all of them are looked at
        if (type == (jl_value_t *)jl_code_instance_type && image.native.count((jl_code_instance_t *)object) &&
            first >= offset + offsetof(jl_code_instance_t, isspecsig))
            continue;  // its native code was put back
        if (jl_is_array(object)) {
            encode_array((jl_array_t *)object, offset);
            for (; begin < i; begin++)
                encode_old_array_word((jl_array_t *)object, offset, words[begin]);
        }
        else {
            encode(object, offset);
        }
    }
    for (auto &function : functions)  // old ones that have got native code now
        if (image.contains(function.first) && !image.native.count(function.first))
            encode((jl_value_t *)function.first, image.offset_of(function.first));
}

void Heap::encode_constants() {
    if (changes.constants().empty())
        return;
    std::vector<std::pair<const char *, const char *>> pointers;  // data that are written as zeros
    image.for_each_object([&](jl_value_t *object) {
        auto *array = (jl_array_t *)object;
        if (jl_is_array(object) && !has_references(array) && jl_is_cpointer_type(jl_tparam0(jl_typeof(object))))
            pointers.push_back({(char *)array->data, (char *)array->data + data_size(array)});
    });
    for (const Section &block : changes.constants()) {
        auto *now = (const char *)image.at((uint32_t)(block.begin - base.bytes));
        std::string bytes(now, block.size);
        for (auto &range : pointers)
            for (size_t i = 0; i < block.size; i++)
                if (range.first <= now + i && now + i < range.second)
                    bytes[i] = 0;
        constant_patches[(size_t)(block.begin - base.constants.begin)] = bytes;
    }
}

void Heap::encode_new_objects() {
    while (!waiting.empty() && reason.empty()) {
        jl_value_t *object = waiting.back();
        waiting.pop_back();
        encode(object, offset_in(placed[object]));
    }
}

void Heap::record_gvars() {
    for (auto &entry : values) {
        if ((uint32_t)entry.second <= image.gvars)
            continue;
        size_t index = (uint32_t)entry.second - image.gvars - 1;
        if (added_gvars.size() <= index)
            added_gvars.resize(index + 1);
        auto binding = placed_bindings.find((jl_binding_t *)entry.first);
        added_gvars[index] = binding != placed_bindings.end() ? reference_to(DATA, binding->second)
                                                              : reference((jl_value_t *)entry.first);
    }
}

// ---- the blob ----

void Heap::assemble() {
    auto copy = [&](const char *from, size_t size) { recipe.copy((size_t)(from - base.bytes), size); };
    auto add = [&](const std::string &bytes) { recipe.add(bytes.data(), bytes.size()); };
    // Copies with other bytes in some places.
    auto patched = [&](const char *from, size_t size, const std::map<size_t, std::string> &others) {
        size_t done = 0;
        for (auto &other : others) {
            if (other.first - done < WORTH_A_PIECE)
                recipe.add(from + done, other.first - done);
            else
                copy(from + done, other.first - done);
            add(other.second);
            done = other.first + other.second.size();
        }
        copy(from + done, size - done);
    };

    added_objects.resize(align(added_objects.size(), sizeof(uint64_t)));
    size_t end = old_end + added_objects.size();
    std::map<size_t, std::string> words;
    auto size = (uint32_t)(end - sizeof(uint32_t));
    words[0] = std::string((const char *)&size, sizeof size);
    for (auto &patch : patches)
        words[patch.first] = std::string((const char *)&patch.second, sizeof patch.second);
    patched(base.bytes, base.objects.size, words);
    add(std::string(old_end - base.objects.size, '\0'));
    add(added_objects);

    size_t constants = base.constants.size;
    std::string room(added_constants.empty() ? 0 : align(constants, GC_ALIGNMENT) - constants, '\0');
    recipe.add((uint32_t)(constants + room.size() + added_constants.size()));
    add(std::string(align(recipe.size(), 16) - recipe.size(), '\0'));
    patched(base.constants.begin, constants, constant_patches);
    add(room);
    add(added_constants);

    recipe.add((uint32_t)(base.symbols.size + added_symbols.size()));
    copy(base.symbols.begin, base.symbols.size);
    add(added_symbols);

    auto add_list = [&](const std::vector<uint32_t> &list) { recipe.add(list.data(), list.size() * sizeof(uint32_t)); };
    std::sort(added_references.begin(), added_references.end());  // an object can have been encoded twice
    added_references.erase(std::unique(added_references.begin(), added_references.end()), added_references.end());
    std::vector<size_t> removed;
    for (uint32_t offset : removed_references)
        removed.push_back(changes.place_in_list(offset));
    std::sort(removed.begin(), removed.end());
    removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
    size_t entries = changes.headers() + changes.references() + added_headers.size() + added_references.size() -
                     removed.size() + 2;
    recipe.add((uint32_t)(entries * sizeof(uint32_t)));
    const char *list = base.relocations.begin;
    copy(list, changes.headers() * sizeof(uint32_t));
    add_list(added_headers);
    recipe.add((uint32_t)0);
    list += (changes.headers() + 1) * sizeof(uint32_t);
    size_t done = 0;
    for (size_t place : removed) {
        copy(list + done * sizeof(uint32_t), (place - done) * sizeof(uint32_t));
        done = place + 1;
    }
    copy(list + done * sizeof(uint32_t), (changes.references() - done) * sizeof(uint32_t));
    add_list(added_references);
    recipe.add((uint32_t)0);

    // A table in the file ends with its last entry that is set.
    size_t gvars = added_gvars.empty() ? 0 : image.gvars * sizeof(uint32_t) - base.gvars.size;
    recipe.add((uint32_t)(base.gvars.size + gvars + added_gvars.size() * sizeof(uint32_t)));
    copy(base.gvars.begin, base.gvars.size);
    add(std::string(gvars, '\0'));
    recipe.add(added_gvars.data(), added_gvars.size() * sizeof(uint32_t));

    size_t fvars = added_fvars.empty() ? 0 : image.fvars * sizeof(uint64_t) - base.fvars.size;
    recipe.add((uint32_t)(base.fvars.size + fvars + added_fvars.size() * sizeof(uint64_t)));
    copy(base.fvars.begin, base.fvars.size);
    add(std::string(fvars, '\0'));
    recipe.add(added_fvars.data(), added_fvars.size() * sizeof(uint64_t));

    copy(base.tail.begin, TASK_STORAGE * sizeof(uint32_t));
    recipe.add(task_storage);
    // The counter of generated symbols shows in the next one's name.
    const char *name = jl_symbol_name(jl_gensym());
    recipe.add((uint32_t)atoi(name + strcspn(name, "0123456789")) + 1);
    recipe.add((uint32_t)jl_world_counter);
    copy(base.tail.begin + INFERENCE_WORLD * sizeof(uint32_t), sizeof(uint32_t));
    size_t reinits = base.tail.size - (REINIT_LIST + 2) * sizeof(uint32_t);
    copy(base.tail.begin + REINIT_LIST * sizeof(uint32_t), reinits);
    for (auto &reinit : added_reinits) {
        recipe.add(reinit.first);
        recipe.add(reinit.second);
    }
    recipe.add((uint64_t)0);  // ends this list and the next
}
