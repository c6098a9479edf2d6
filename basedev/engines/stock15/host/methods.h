// The method tables: every method there is, and what evaluating definitions did to them.
#pragma once

#include "image.h"
#include "json.h"

#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

// Those of method tables have no symbol of their own in libjulia.
jl_datatype_t *core_type(const char *name);

// Those in the image.
std::vector<jl_methtable_t *> method_tables(const Image &image);

// Calls `visit` for each entry of each method table: those in the image, and those of functions
// that were defined since it was loaded.
void for_each_method(const Image &image,
                     const std::function<void(jl_methtable_t *, jl_typemap_entry_t *)> &visit);

// Calls `visit` for each entry of one.
void for_each_method_in(jl_methtable_t *table, const std::function<void(jl_typemap_entry_t *)> &visit);

// The lowered code of a method, which the caller has to keep alive; null where it has none.
jl_code_info_t *lowered_code(jl_method_t *method);

// What happened to the method tables since the world `since`.
struct MethodChanges {
    std::vector<jl_typemap_entry_t *> added;   // in the order of their definition
    std::vector<jl_typemap_entry_t *> ended;   // replaced or deleted, of those in the image
    std::unordered_set<jl_methtable_t *> tables;  // where either happened
    std::vector<jl_typemap_entry_t *> replaced_in_base;  // definitions that others replaced while Julia was built
};
const MethodChanges &method_changes(const Image &image, size_t since);

// By table: argument types for which no method was found, each with who asked (the edges of a method table).
using MissingMethods =
    std::unordered_map<jl_methtable_t *, std::vector<std::pair<jl_value_t *, jl_method_instance_t *>>>;
MissingMethods missing_methods(const Image &image);

// The specialization that a call with these argument types reaches in `world`, or null.
jl_method_instance_t *dispatch(jl_value_t *types, size_t world);

// A type as the runtime prints it (jl_static_show), which is Julia syntax with full module names.
std::string type_text(jl_value_t *type);
std::string module_text(jl_module_t *module);

// Writes the members "module", "name", "signature", "file", "line" of an object.
void write_method(Json &json, jl_typemap_entry_t *entry);
