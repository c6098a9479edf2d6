#include "methods.h"

#include <algorithm>

jl_datatype_t *core_type(const char *name) {
    auto *type = (jl_datatype_t *)jl_get_global(jl_core_module, jl_symbol(name));
    if (!type)
        fail(std::string("this Julia has no Core.") + name);
    return type;
}

namespace {

class TableWalk {
public:
    explicit TableWalk(const std::function<void(jl_methtable_t *, jl_typemap_entry_t *)> &visit) : visit(visit) {}

    void table(jl_methtable_t *methods) {
        if (seen.insert(methods).second)
            map(methods, (jl_value_t *)methods->defs);
    }

private:
    const std::function<void(jl_methtable_t *, jl_typemap_entry_t *)> &visit;
    std::unordered_set<jl_methtable_t *> seen;
    jl_value_t *const entry_type = (jl_value_t *)core_type("TypeMapEntry");
    jl_value_t *const level_type = (jl_value_t *)core_type("TypeMapLevel");

    void map(jl_methtable_t *methods, jl_value_t *node) {
        while (node && node != jl_nothing) {
            if (jl_typeof(node) == entry_type) {
                auto *entry = (jl_typemap_entry_t *)node;
                visit(methods, entry);
                node = (jl_value_t *)entry->next;
            }
            else if (jl_typeof(node) == level_type) {
                auto *level = (jl_typemap_level_t *)node;
                for (jl_array_t *branches : {level->targ, level->arg1})
                    if (branches)  // key, map, key, map, ...
                        for (size_t i = 1; i < jl_array_len(branches); i += 2)
                            map(methods, jl_array_ptr_ref(branches, i));
                map(methods, (jl_value_t *)level->linear);
                node = (jl_value_t *)level->any;
            }
            else {
                return;
            }
        }
    }
};

// Function types that were made after the image was loaded are bound in their modules under their names.
void for_each_new_table(const Image &image, const std::function<void(jl_methtable_t *)> &visit) {
    auto modules = image.all_of(jl_module_type);
    for (size_t next = 0; next < modules.size(); next++) {
        auto *module = (jl_module_t *)modules[next];
        void **table = module->bindings.table;
        for (size_t i = 1; i < module->bindings.size; i += 2) {
            if (table[i] == HT_NOTFOUND)
                continue;
            auto *binding = (jl_binding_t *)table[i];
            if (binding->owner != module || !binding->value || image.contains(binding->value))
                continue;
            jl_value_t *value = unwrap(binding->value);
            if (jl_is_module(value) && ((jl_module_t *)value)->parent == module) {
                modules.push_back(value);
                continue;
            }
            auto *type = jl_is_datatype(value) ? (jl_datatype_t *)value : (jl_datatype_t *)jl_typeof(value);
            jl_methtable_t *methods = type->name->mt;
            if (methods && (jl_value_t *)methods != jl_nothing && !image.contains(methods))
                visit(methods);
        }
    }
}

}  // namespace

std::vector<jl_methtable_t *> method_tables(const Image &image) {
    std::vector<jl_methtable_t *> tables;
    for (jl_value_t *table : image.all_of(core_type("MethodTable")))
        tables.push_back((jl_methtable_t *)table);
    return tables;
}

void for_each_method(const Image &image,
                     const std::function<void(jl_methtable_t *, jl_typemap_entry_t *)> &visit) {
    TableWalk walk(visit);
    for (jl_methtable_t *table : method_tables(image))
        walk.table(table);
    for_each_new_table(image, [&](jl_methtable_t *table) { walk.table(table); });
}

void for_each_method_in(jl_methtable_t *table, const std::function<void(jl_typemap_entry_t *)> &visit) {
    const std::function<void(jl_methtable_t *, jl_typemap_entry_t *)> entries =
        [&](jl_methtable_t *, jl_typemap_entry_t *entry) { visit(entry); };
    TableWalk(entries).table(table);
}

// An image has it packed.
jl_code_info_t *lowered_code(jl_method_t *method) {
    if (method->source && jl_typeis(method->source, jl_array_uint8_type))
        return jl_uncompress_ir(method, nullptr, (jl_array_t *)method->source);
    return (jl_code_info_t *)method->source;
}

// Each change begins another world.
const MethodChanges &method_changes(const Image &image, size_t since) {
    static MethodChanges changes;
    static size_t known_since = 0, known_in = 0;
    if (known_since == since && known_in == jl_get_world_counter())
        return changes;
    known_since = since;
    known_in = jl_get_world_counter();
    changes = {};
    for_each_method(image, [&](jl_methtable_t *table, jl_typemap_entry_t *entry) {
        if (!jl_is_method(entry->func.value))
            return;
        bool added = !image.contains(entry->func.value);
        bool ended = !added && entry->max_world != ALWAYS && entry->max_world >= since;
        if (added)
            changes.added.push_back(entry);
        if (ended)
            changes.ended.push_back(entry);
        if (!added && entry->max_world < since)
            changes.replaced_in_base.push_back(entry);
        if (added || ended)
            changes.tables.insert(table);
    });
    std::sort(changes.added.begin(), changes.added.end(), [](jl_typemap_entry_t *a, jl_typemap_entry_t *b) {
        return a->func.method->primary_world < b->func.method->primary_world;
    });
    return changes;
}

MissingMethods missing_methods(const Image &image) {
    MissingMethods missing;
    for (jl_methtable_t *table : method_tables(image)) {
        jl_array_t *edges = table->backedges;
        for (size_t i = 1; edges && i < jl_array_len(edges); i += 2)
            missing[table].push_back(
                {jl_array_ptr_ref(edges, i - 1), (jl_method_instance_t *)jl_array_ptr_ref(edges, i)});
    }
    return missing;
}

std::string type_text(jl_value_t *type) {
    ios_t buffer;  // jl_uv_puts takes one in place of a libuv stream
    ios_mem(&buffer, 0);
    jl_static_show((JL_STREAM *)&buffer, type);
    std::string text(buffer.buf, buffer.size);
    ios_close(&buffer);
    return text;
}

std::string module_text(jl_module_t *module) {
    std::string name = jl_symbol_name(module->name);
    return module->parent == module || module == jl_main_module || module->parent == jl_main_module
               ? name
               : module_text(module->parent) + "." + name;
}

void write_method(Json &json, jl_typemap_entry_t *entry) {
    jl_method_t *method = entry->func.method;
    json.key("module").string(module_text(method->module)).key("name").string(jl_symbol_name(method->name));
    json.key("signature").string(type_text((jl_value_t *)entry->sig));
    json.key("file").string(jl_symbol_name(method->file)).key("line").number(method->line);
}

jl_method_instance_t *dispatch(jl_value_t *types, size_t world) {
    size_t min_valid = 0, max_valid = ALWAYS;
    jl_value_t *volatile found = jl_nothing;
    JL_TRY {
        found = jl_get_spec_lambda((jl_tupletype_t *)types, world, &min_valid, &max_valid);
    }
    JL_CATCH {
        found = jl_nothing;  // ambiguous now: there is nothing to compile
    }
    return found == jl_nothing ? nullptr : (jl_method_instance_t *)found;
}
