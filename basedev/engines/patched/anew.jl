# What an edit of Julia's compiler changes. Julia does not end what its compiler made, so all that the image has is inferred once
# more, from nothing, in two processes: by the compiler that is there, and after the steps by the edited one. What has the same
# digest in both stays as it is. docs/early-cutoff.md argues why.

const SAMPLE = 101  # of so many is one inferred first, so that what the edited compiler needs is there

struct Anew
    codes::Vector{Core.CodeInstance}  # that the image had before any steps
    digests::Vector{UInt64}  # of what takes their places
    called::Vector{Vector{Any}}  # MethodInstances that native code of these calls
    ended::Base.IdSet{Any}  # that the steps ended
end

const UNTOLD = UInt64(0)  # in place of a digest

# Infers all that the image has, by the compiler as it is now, which compiles whatever is compiled in this process from here on.
function inferred_anew()
    now = Base.get_world_counter()
    codes, ended = codes_before(get(BEGUN, 1, now)), Base.IdSet{Any}()
    foreach(code -> code.max_world == typemax(UInt) || push!(ended, code), codes)
    foreach(code -> inferred_by(now, now, code.def), codes[1:SAMPLE:end])
    unsafe_store!(cglobal(:jl_typeinf_world, UInt), now)
    # What runs in the world before goes on in the code that is there; in the next one, nothing is valid that was inferred before.
    after = next_world()
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            code.max_world == typemax(UInt) && setfield!(code, :max_world, now, :monotonic)
        end
    end
    found = IdDict{Any,Tuple{UInt64,Vector{Any}}}()
    for code in codes, (made, source) in inferred_by(now, after, code.def).codegen
        haskey(found, made) || (found[made] = digest_of(made, source))  # later, it is what was kept for inlining
    end
    anew = Anew(codes, UInt64[], Vector{Any}[], ended)
    for code in codes
        digest, called = @something cached_digest(code.def, found) digest_without_cache(now, after, code.def)
        push!(anew.digests, digest)
        push!(anew.called, called)
    end
    return anew
end

# Those of the base image that were valid in a world and later, in the order in which they are in its heap.
function codes_before(world)
    found = Core.CodeInstance[]
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            is_plain = code.owner === nothing && code.def === instance && instance.specTypes isa DataType
            is_plain && is_of_base(code) && code.max_world >= world && isdefined(code, :edges) && push!(found, code)
        end
    end
    return sort!(found; by = distance)
end

function cached_digest(instance, found)
    made = filter(code -> code.max_world == typemax(UInt) && code.owner === nothing, codes_of(instance))
    for code in made
        haskey(found, code) && return found[code]
    end
    for code in made
        Base.Compiler.use_const_api(code) && return digest_of(code, nothing)  # there is no source
    end
    return nothing
end

# Of what inference came to when it compiled what it ran, of which it keeps no source.
function digest_without_cache(now, world, instance)
    interpreter = Base.Compiler.NativeInterpreter(world)
    frame = Base.invoke_in_world(now, Base.Compiler.typeinf_frame, interpreter, instance, true)
    (frame === nothing || !(frame.result.src isa Core.CodeInfo)) && return UNTOLD, Any[]
    result = Result()
    foreach(name -> add_part(result, getfield(frame.result, name)), (OF_RESULT..., :ipo_effects))
    add_source(result, frame.result.src)
    add_edges(result, frame.result.src.edges)
    return told(result)
end

function next_world()
    Core.eval(Module(:Next, false, false), :(const next = 1))
    return Base.get_world_counter()
end

function inferred_by(now, world, instance)
    interpreter = Base.Compiler.NativeInterpreter(world)
    mode = Base.Compiler.SOURCE_MODE_GET_SOURCE
    Base.invoke_in_world(now, Base.Compiler.typeinf_ext, interpreter, instance, mode)
    return interpreter
end

# ---- digests of results, the same in any process on this image ----

mutable struct Result
    hash::UInt64
    is_told::Bool
    const called::Vector{Any}
    const seen::Base.IdSet{Any}  # CodeInstances of which edges are in it
end

Result() = Result(UInt64(1), true, Any[], Base.IdSet{Any}())

told(result) = (result.is_told ? max(result.hash, UInt64(1)) : UNTOLD, result.called)

const OF_CODE_INSTANCE = (:rettype, :exctype, :ipo_purity_bits, :analysis_results)

function digest_of(code, source)
    result = Result()
    foreach(name -> add_part(result, getfield(code, name)), OF_CODE_INSTANCE)
    isdefined(code, :rettype_const) && add_part(result, code.rettype_const)
    source === nothing || add_source(result, source)
    add_edges(result, code.edges)
    return told(result)
end

add_source(result, source) = foreach(name -> add_part(result, getfield(source, name)), OF_SOURCE)

add_number(result, number::UInt64) = (result.hash = hash(number, result.hash); nothing)
add_number(result, number::Int) = add_number(result, reinterpret(UInt64, number))

# Those of what inference looked into with constant arguments too, which is in no cache.
function add_edges(result, edges)
    for edge in edges
        if edge isa Core.CodeInstance
            add_instance(result, instance_of(edge))
            (edge in result.seen || !isdefined(edge, :edges) || is_cached(edge)) && continue
            push!(result.seen, edge)
            add_edges(result, edge.edges)
        else
            add_part(result, edge)
        end
    end
end

function add_part(result, @nospecialize(part))
    if part isa Expr
        add_symbol(result, part.head)
        add_number(result, length(part.args))
        is_call = part.head === :invoke
        is_call && add_callee(result, part.args[1])
        foreach(number -> add_part(result, part.args[number]), (is_call ? 2 : 1):length(part.args))
    elseif part isa Symbol
        add_symbol(result, part)
    elseif part isa Type
        add_type(result, part)
    elseif part isa String
        add_number(result, hash(part))
    elseif part isa Union{Array,Memory}
        add_number(result, length(part))
        foreach(number -> isassigned(part, number) && add_part(result, part[number]), eachindex(part))
    elseif part isa Core.SimpleVector
        add_number(result, length(part))
        foreach(one -> add_part(result, one), part)
    elseif part isa Method
        add_method(result, part)
    elseif part isa Core.MethodInstance
        add_instance(result, part)
    elseif part isa Core.CodeInstance
        add_callee(result, part)
    elseif part isa Module
        add_number(result, hash(string(part)))
    elseif part isa GlobalRef
        add_number(result, hash(string(part.mod)))
        add_symbol(result, part.name)
    elseif part isa Core.Binding
        add_part(result, part.globalref)
    elseif part isa Core.DebugInfo
        add_type(result, Core.DebugInfo)
        foreach(name -> add_part(result, getfield(part, name)), (:def, :linetable, :edges, :codelocs))
    elseif ismutable(part)
        in_image(part) ? add_number(result, distance(part)) : (result.is_told = false)
    elseif part isa Ptr
        part == C_NULL || add_number(result, Int(part) - place(Core.CodeInstance))  # the layout of a type of the image, mostly
    else
        add_type(result, typeof(part))
        if isprimitivetype(typeof(part))
            bytes = ccall(:jl_value_ptr, Ptr{UInt8}, (Any,), part)
            foreach(number -> add_number(result, Int(unsafe_load(bytes, number))), 1:sizeof(part))
        end
        for number in 1:nfields(part)
            isdefined(part, number) ? add_part(result, getfield(part, number)) : add_number(result, 0)
        end
    end
    return nothing
end

add_symbol(result, name::Symbol) = add_number(result, objectid(name))  # of its text

add_type(result, @nospecialize(type)) = add_number(result, known!(hash_of_type, TYPE_HASHES, type))

# `Type` is printed by its name or written out, depending on which of two equal objects it is.
hash_of_type(@nospecialize(type)) = hash(replace(full_text(type), "Type{T} where T" => "Type"))

const TYPE_HASHES = IdDict{Any,UInt64}()

# Also of a method that took the place of another.
function add_method(result, method)
    add_type(result, method.sig)
    add_number(result, Int(method.nargs))
    add_number(result, Int(method.nospecialize))
    add_number(result, 2 * Int(method.called) + method.isva)
end

function add_instance(result, instance)
    add_type(result, instance.specTypes)
    instance.def isa Method ? add_method(result, instance.def) : add_part(result, instance.def)
end

# What native code has to know of what it calls.
function add_callee(result, @nospecialize(callee))
    callee isa Core.CodeInstance || return add_part(result, callee)
    push!(result.called, instance_of(callee))
    add_instance(result, instance_of(callee))
    add_type(result, callee.rettype)
    isdefined(callee, :rettype_const) && add_part(result, callee.rettype_const)
end

# ---- requests ----

const FOUND = Anew[]

function infer_anew(path)
    anew = try
        inferred_anew()
    catch error
        return sprint(showerror, error)
    end
    push!(FOUND, anew)
    open(path, "w") do file
        foreach((code, digest) -> write(file, distance(code), digest), anew.codes, anew.digests)
    end
    return nothing
end

function kept_anew(path)
    anew, known = only(FOUND), reinterpret(Int64, read(path))
    before = Dict{Int64,UInt64}(known[at] => reinterpret(UInt64, known[at+1]) for at in 1:2:length(known))
    others = IdDict{Any,Core.CodeInstance}()
    for (code, digest) in zip(anew.codes, anew.digests)
        is_same = digest != UNTOLD && digest == get(before, distance(code), UNTOLD)
        is_same || code in anew.ended || (others[code.def] = code)
    end
    end_sources!(others, anew)
    is_other(edge) = edge isa Core.CodeInstance && get(others, edge.def, nothing) === edge
    succeeded, stale = Base.IdSet{Any}(), Base.IdSet{Any}()
    for (code, called) in zip(anew.codes, anew.called)
        (code in anew.ended || is_other(code)) && continue
        foreach(one -> haskey(others, one) && push!(succeeded, others[one]), called)
        union!(stale, filter(one -> any(is_other, one.edges), all_reached(uncached, Any[code])))
    end
    return Object([
        "kept" => Any[Any[handle_of(code)..., Int(code.ipo_purity_bits), true] for code in stale],
        "succeeded" => Any[handle_of(code) for code in succeeded if code.specptr != C_NULL],
        "ended" => Any[handle_of(code) for code in values(others)],
        "inferred" => length(anew.codes),
    ])
end

# Of what stays, sources that are kept for inlining call what ended, which comes to its successor by a jump. It can't where that has
# no native code, and inference can't where it goes through such a source with constant arguments: then they end too.
function end_sources!(others, anew)
    users = IdDict{Any,Vector{Core.CodeInstance}}()
    for (code, called) in zip(anew.codes, anew.called)
        has_source = isdefined(code, :inferred) && code.inferred !== nothing
        (code in anew.ended || !has_source) && continue
        foreach(one -> push!(get!(Vector{Core.CodeInstance}, users, one), code), called)
    end
    all_reached(collect(Any, values(others))) do one
        found = get(Vector{Core.CodeInstance}, users, one.def)
        found = one.specptr == C_NULL ? found : filter(may_be_run, found)
        foreach(code -> others[code.def] = code, found)
        found
    end
end

# Those edges of which code is in no cache: what inference looked into with constant arguments.
uncached(code) = filter(Any[code.edges...]) do edge
    edge isa Core.CodeInstance && is_of_base(edge) && isdefined(edge, :edges) && !is_cached(edge)
end
