// Sources: base/compiler/typeinfer.jl, abstractinterpretation.jl, params.jl and src/gf.c of Julia 1.5.3.
#include "inference.h"

#include "breakpoints.h"

#include <cstring>

static jl_value_t *call_in_typeinf_world(jl_value_t **call, int count) {
    jl_value_t *volatile result = nullptr;
    JL_TRY {
        result = jl_call_in_typeinf_world(call, count);
    }
    JL_CATCH {
        result = nullptr;
    }
    return result;
}

static CachedResults *noting = nullptr;

CachedResults::CachedResults() : outer(noting) {
    static bool watching = false;
    if (!watching)
        set_breakpoint(runtime_function("jl_set_method_inferred"), false, [](const Arguments &call) {
            if (noting)
                noting->instances.push_back((jl_method_instance_t *)call.values[0]);
            return GO_ON;
        });
    watching = true;
    noting = this;
}

CachedResults::~CachedResults() { noting = outer; }

Inference::Inference(size_t world) : world(world) {}

bool Inference::infer(jl_method_instance_t *instance) {
    cached.clear();
    not_cached.clear();
    if (result_of(instance, world))
        return true;
    auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    jl_value_t **call;
    JL_GC_PUSHARGS(call, 3);
    call[0] = jl_get_global(compiler, jl_symbol("Params"));
    call[1] = jl_box_uint64(world);
    call[2] = call_in_typeinf_world(call, 2);
    if (call[2]) {
        call[0] = jl_get_global(compiler, jl_symbol("typeinf_ext"));
        call[1] = (jl_value_t *)instance;
        instance->inInference = 1;
        CachedResults noted;
        call_in_typeinf_world(call, 3);
        cached.swap(noted.instances);
        instance->inInference = 0;
        count++;
        // Params.cache has an InferenceResult, whose first field is the MethodInstance, for each frame: those whose
        // results were cached, once each, and the others
        auto *frames = (jl_array_t *)jl_get_field(call[2], "cache");
        std::unordered_multiset<jl_method_instance_t *> own(cached.begin(), cached.end());
        for (size_t i = 0; i < jl_array_len(frames); i++) {
            auto *framed = *(jl_method_instance_t **)jl_array_ptr_ref(frames, i);
            auto found = own.find(framed);
            if (found != own.end())
                own.erase(found);
            else
                not_cached.insert(framed);
        }
    }
    JL_GC_POP();
    return result_of(instance, world) != nullptr;
}

jl_code_instance_t *result_of(jl_method_instance_t *instance, size_t world) {
    jl_value_t *found = jl_rettype_inferred(instance, world, world);
    return found == jl_nothing ? nullptr : (jl_code_instance_t *)found;
}

bool same_answer(const jl_code_instance_t *a, const jl_code_instance_t *b) {
    if (a->rettype != b->rettype && !jl_types_equal(a->rettype, b->rettype))
        return false;
    if ((a->invoke == jl_fptr_const_return) != (b->invoke == jl_fptr_const_return))
        return false;
    return a->rettype_const == b->rettype_const ||
           (a->rettype_const && b->rettype_const && jl_egal(a->rettype_const, b->rettype_const));
}

static jl_array_t *code_of(const jl_code_instance_t *code) {
    return code->inferred && jl_typeis(code->inferred, jl_array_uint8_type) ? (jl_array_t *)code->inferred : nullptr;
}

// Parts of code are the same when they say the same; what it refers to, when it is the same object or value.
static bool same_code(jl_value_t *a, jl_value_t *b) {
    if (a == b || (a && b && jl_egal(a, b)))
        return true;
    if (!a || !b || jl_typeof(a) != jl_typeof(b))
        return false;
    auto *type = (jl_datatype_t *)jl_typeof(a);
    if (jl_is_array(a)) {
        auto *x = (jl_array_t *)a, *y = (jl_array_t *)b;
        if (jl_array_len(x) != jl_array_len(y) || x->flags.hasptr)
            return false;
        if (!x->flags.ptrarray)
            return !memcmp(jl_array_data(x), jl_array_data(y), jl_array_len(x) * x->elsize);
        for (size_t i = 0; i < jl_array_len(x); i++)
            if (!same_code(jl_array_ptr_ref(x, i), jl_array_ptr_ref(y, i)))
                return false;
        return true;
    }
    if (!jl_is_structtype(type) || (type->mutabl && type != jl_expr_type && type != jl_code_info_type))
        return false;
    for (size_t i = 0; i < jl_datatype_nfields(type); i++) {
        char *x = (char *)a + jl_field_offset(type, i), *y = (char *)b + jl_field_offset(type, i);
        if (jl_field_isptr(type, i) ? !same_code(*(jl_value_t **)x, *(jl_value_t **)y)
                                    : memcmp(x, y, jl_field_size(type, i)) != 0)
            return false;
    }
    return jl_datatype_nfields(type) != 0;
}

bool same_result(const jl_code_instance_t *a, const jl_code_instance_t *b) {
    if (!same_answer(a, b))
        return false;
    jl_array_t *x = code_of(a), *y = code_of(b);
    if (!x || !y)
        return a->inferred == b->inferred;
    if (jl_array_len(x) != jl_array_len(y))
        return false;
    if (!memcmp(jl_array_data(x), jl_array_data(y), jl_array_len(x)))
        return true;
    // (0, false) has seven bytes of padding, which are written as they happen to be, and two places among the literals
    // may have the same value.
    jl_value_t *one = nullptr, *other = nullptr;
    JL_GC_PUSH2(&one, &other);
    one = (jl_value_t *)jl_uncompress_ir(a->def->def.method, nullptr, x);
    other = (jl_value_t *)jl_uncompress_ir(b->def->def.method, nullptr, y);
    bool same = same_code(one, other);
    JL_GC_POP();
    return same;
}

bool may_be_inlined(const jl_code_instance_t *code) {
    jl_array_t *inferred = code_of(code);
    return inferred && jl_ir_flag_inlineable(inferred);
}
