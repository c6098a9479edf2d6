# What `describe.jl` asks of current Julia: how it keeps types, arrays, code and methods.

# When Julia was built.
const UNTOLD = ("Base.start_base_include", "Base.Compiler.Timings._timings")

# Left by the last step of Julia's build, and not where that was left out; no source file of the image has it.
const STRAY = :__precompile_script

const STDLIB = string("/stdlib/v", VERSION.major, '.', VERSION.minor, '/')

const ROOTS = (Core, Base, Main, Base.Compiler)

# Types of what means nothing outside of the process that it is in.
const Fleeting = Union{Ptr,Task,IO,Base.RefValue,Base.AbstractLock,Base.GenericCondition,WeakRef,WeakKeyDict,Timer,
    Base.AsyncCondition,Base.Process,Core.TypeName,Core.MethodTable,Core.MethodCache,Core.TypeMapEntry,Core.TypeMapLevel,
    Core.MethodInstance,Core.CodeInstance,Core.Binding,Core.BindingPartition,Method}

# ---- values

const List = Union{Array,GenericMemory}
dimensions(@nospecialize(a)) = a isa GenericMemory ? (a.length,) : getfield(a, :size)
count(@nospecialize(a)) = (n = 1; for d in dimensions(a); n *= d::Int; end; n)

# By builtins alone, which are compiled for no type.
function place_in(@nospecialize(a), i::Int)
    start = a isa GenericMemory ? Core.memoryrefnew(a) : getfield(a, :ref)
    Core.memoryrefnew(start, i, true)
end
order(@nospecialize(a)) = (a isa Array ? typeof(getfield(a, :ref)) : typeof(a)).parameters[1] === :atomic ? :monotonic : :not_atomic
assigned(@nospecialize(a), i::Int) = Core.memoryref_isassigned(place_in(a, i), order(a), true)
element(@nospecialize(a), i::Int) = Core.memoryrefget(place_in(a, i), order(a), true)

is_filled(slot::UInt8) = slot & 0x80 != 0 # of a dictionary

function limbs(io::IO, x::BigFloat)
    memory = getfield(x, :d)
    for i in Base.MPFR.offset_p_limbs+1:length(memory)
        write(io, string(memory[i], base = 16, pad = 16))
    end
end

# ---- types

name_of_function(name::Core.TypeName) = name.module, name.singletonname
initialized(t::DataType) = # of a tuple, all, and its type's name has no names of fields
    has_fields(t) ? length(t.name.names) - t.name.n_uninitialized : typemax(Int)
kind(io::IO, t::DataType) = write(io, isabstracttype(t) ? "abstract " : Base.ismutabletype(t) ? "mutable " : "")
has_fields(t::DataType) = !isabstracttype(t) && t.name !== Tuple.name && t.name !== Core.NamedTuple.body.body.name
types_of_fields(t::DataType) = Base.datatype_fieldtypes(t)

function vararg(io::IO, @nospecialize(t))
    t isa Core.TypeofVararg || return false
    write(io, "Vararg")
    if isdefined(t, :T)
        write(io, '{')
        type(io, t.T)
        isdefined(t, :N) && (write(io, ", "); type(io, t.N))
        write(io, '}')
    end
    return true
end

# ---- names

is_public(m::Module, name::Symbol) = Base.ispublic(m, name)

function declared(io::IO, m::Module, name::Symbol)
    type(io, Core.get_binding_type(m, name))
    write(io, " with ")
    type(io, typeof(getfield(m, name)))
end

documentation(m::Module) = something(Base.Docs.meta(m, autoinit = false), IdDict{Any,Any}())

# ---- code and methods

flags(io::IO, c::Core.CodeInfo) = write(io, "inlining ", string(c.inlining), c.nospecializeinfer ? " nospecializeinfer" : "",
    c.isva ? " varargs" : "", " constprop ", string(c.constprop), " purity ", string(c.purity), ' ')
flags(m::Method) = string(m.nospecializeinfer ? "nospecializeinfer " : "", "constprop ", m.constprop, " purity ", m.purity,
    " at most ", m.max_varargs, isdefined(m, :external_mt) && m.external_mt !== nothing ? " overlay " : " ")

place_of_generator(::Core.GeneratedFunctionStub) = nothing # it tells none

function lines_of(c::Core.CodeInfo)
    for statement in 1:length(c.code)
        lines_of(c.debuginfo, statement, "")
    end
end

# As Compiler's `append_scopes!`. A line that is the last one's is not told again.
function lines_of(info::Core.DebugInfo, statement::Int, file::String)
    while true
        file = file_of(info.def, file)
        line, inlined, within = ccall(:jl_uncompress1_codeloc, NTuple{3,Int32}, (Any, Int), info.codelocs, statement)
        line == 0 && inlined == 0 && return  # as the one before
        if info.linetable === nothing || statement <= 0 || line < 0
            told = (place(file), Int(max(line, 0)))
            isempty(LINES) || LINES[end] != told ? push!(LINES, told) : nothing
        else
            lines_of(info.linetable::Core.DebugInfo, Int(line), file)
        end
        inlined == 0 && return
        info, statement = info.edges[Int(inlined)]::Core.DebugInfo, Int(within)
    end
end

file_of(@nospecialize(of), file::String) =
    of isa Symbol ? String(of) : of isa Method ? String(of.file) : of isa Core.MethodInstance ? file_of(of.def, file) : file

# `@enum` puts the hash of its type there, which is another in each build; and the compiler's default plugin has the world
# in which it was started.
function is_told(m::Method)
    types = Base.unwrap_unionall(m.sig).parameters
    m.name === :_enum_hash && return !isconcretetype(types[2])
    return !(m.name === :typeinf && length(types) == 4 && types[2] === Nothing)
end

# Those that calls can reach: others are kept after they were replaced or deleted.
function every_method(::Vector{Module})
    methods, world = Method[], Base.get_world_counter()
    Base.visit(Core.methodtable) do method
        method.module === Describe && return
        live = ccall(:jl_gf_invoke_lookup, Any, (Any, Any, UInt), method.sig, nothing, world)
        live === method && push!(methods, method)
    end
    methods
end
