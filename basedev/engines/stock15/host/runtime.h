// What the host uses of libjulia 1.5: the public header, and exported functions that it does not declare.
// Names and signatures are those of Julia 1.5.3's src/julia_internal.h, gf.c, aotcompile.cpp, staticdata.c.
#pragma once

#include <julia.h>

#include <cstddef>
#include <cstdint>

extern "C" {
extern JL_DLLEXPORT jl_datatype_t *jl_code_instance_type;
extern JL_DLLEXPORT size_t jl_world_counter;
extern JL_DLLEXPORT int jl_lineno;

JL_DLLEXPORT jl_value_t *jl_parse_string(const char *text, size_t length, int position, int greedy);
JL_DLLEXPORT jl_value_t *jl_macroexpand(jl_value_t *code, jl_module_t *module);
JL_DLLEXPORT size_t jl_get_world_counter(void);
JL_DLLEXPORT void jl_set_typeinf_func(jl_value_t *f);
JL_DLLEXPORT jl_code_info_t *jl_code_for_staged(jl_method_instance_t *instance);
JL_DLLEXPORT jl_value_t *jl_binding_owner(jl_module_t *module, jl_sym_t *name);
JL_DLLEXPORT void jl_array_del_at(jl_array_t *array, ssize_t index, size_t count);
JL_DLLEXPORT jl_value_t *jl_call_in_typeinf_world(jl_value_t **args, int count);
JL_DLLEXPORT jl_value_t *jl_rettype_inferred(jl_method_instance_t *mi, size_t min_world, size_t max_world);
JL_DLLEXPORT jl_value_t *jl_get_spec_lambda(jl_tupletype_t *types, size_t world, size_t *min_valid,
                                            size_t *max_valid);
JL_DLLEXPORT int32_t jl_isa_compileable_sig(jl_tupletype_t *type, jl_method_t *definition);
JL_DLLEXPORT void jl_method_instance_add_backedge(jl_method_instance_t *callee, jl_method_instance_t *caller);
JL_DLLEXPORT void jl_method_table_add_backedge(jl_methtable_t *table, jl_value_t *types, jl_value_t *caller);
JL_DLLEXPORT void jl_method_table_disable(jl_methtable_t *table, jl_method_t *method);
JL_DLLEXPORT jl_methtable_t *jl_method_table_for(jl_value_t *argtypes);
JL_DLLEXPORT ios_t *jl_create_system_image(void *native_code);
}

// How the table of functions in an image names calling conventions of the runtime (jl_get_function_id).
enum : int32_t { INVOKE_NONE = 0, INVOKE_BOXED = -1, INVOKE_SPARAMS = -2 };

inline jl_value_t *unwrap(jl_value_t *type) {
    while (jl_is_unionall(type))
        type = ((jl_unionall_t *)type)->body;
    return type;
}

const size_t ALWAYS = ~(size_t)0;  // the max_world of what is still valid

// The runtime's task runs in the newest world, as a new session would.
inline size_t enter_newest_world() {
    size_t world = jl_get_world_counter();
    jl_get_ptls_states()->world_age = world;
    return world;
}
