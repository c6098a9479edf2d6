# What `describe.jl` asks of Julia 1.5: how it keeps types, arrays, code and methods.

# Work space that is allocated when its module is loaded, and written when it is used.
const UNTOLD = ("Base.Grisu.DIGITS", "Base.Grisu.DIGITSs", "LinearAlgebra.Abuf", "LinearAlgebra.Bbuf",
    "LinearAlgebra.Cbuf", "SuiteSparse.UMFPACK.umf_info")

# Left by the script with which distributions find out what to compile; no source file of the image has it.
const STRAY = :__PackagePrecompilationStatementModule

const STDLIB = "/stdlib/v1.5/"

const ROOTS = (Core, Base, Main)

# Types of what means nothing outside of the process that it is in.
const Fleeting = Union{Ptr,Task,IO,Base.RefValue,Base.AbstractLock,Base.GenericCondition,WeakRef,WeakKeyDict,Timer,
    Base.AsyncCondition,Base.Process,Core.TypeName,Core.MethodTable,Core.TypeMapEntry,Core.TypeMapLevel,
    Core.MethodInstance,Core.CodeInstance,Method}

# ---- values

const List = Array
dimensions(@nospecialize(a)) = Int[Core.arraysize(a, d) for d in 1:typeof(a).parameters[2]]
count(@nospecialize(a)) = (n = 1; for d in 1:typeof(a).parameters[2]; n *= Core.arraysize(a, d)::Int; end; n)
assigned(@nospecialize(a), i::Int) = ccall(:jl_array_isassigned, Cint, (Any, UInt), a, i - 1) != 0
element(@nospecialize(a), i::Int) = Core.arrayref(true, a, i)

is_filled(slot::UInt8) = slot == 0x01 # of a dictionary

limbs(io::IO, x::BigFloat) = write(io, bytes2hex(codeunits(x._d)))

# ---- types

name_of_function(name::Core.TypeName) = isdefined(name, :mt) ? (name.mt.module, name.mt.name) : (Core, Symbol("#"))
initialized(t::DataType) = t.ninitialized
kind(io::IO, t::DataType) = write(io, t.abstract ? "abstract " : t.mutable ? "mutable " : "")
has_fields(t::DataType) =
    isdefined(t, :types) && !t.abstract && t.name !== Tuple.name && t.name !== NamedTuple.body.body.name
types_of_fields(t::DataType) = t.types

vararg(io::IO, @nospecialize(t)) = false # a type as others are

# ---- names

is_public(m::Module, name::Symbol) = false
declared(io::IO, m::Module, name::Symbol) = type(io, typeof(getfield(m, name)))
documentation(m::Module) = Base.Docs.meta(m)::IdDict

# ---- code and methods

flags(io::IO, c::Core.CodeInfo) = write(io, c.inlineable ? "inline " : "", c.pure ? "pure " : "")
flags(m::Method) = m.pure ? "pure " : ""
is_told(::Method) = true

place_of_generator(x::Core.GeneratedFunctionStub) = push!(LINES, (place(string(x.file)), x.line))

function lines_of(c::Core.CodeInfo)
    table = c.linetable
    before = 0
    for loc in c.codelocs
        loc == before && continue
        before = loc
        while table isa Vector{Any} && 0 < loc <= length(table)
            node = table[loc]
            push!(LINES, (place(string(node.file)), node.line))
            loc = node.inlined_at
        end
    end
end

function every_method(modules::Vector{Module})
    tables = Core.MethodTable[Type.body.name.mt, Symbol.name.mt] # of constructors; of objects that are no functions
    for m in modules, name in names(m, all = true)
        (isdefined(m, name) && !Base.isdeprecated(m, name) && isconst(m, name)) || continue
        x = Base.unwrap_unionall(getfield(m, name))
        x isa DataType && x.name.module === m && x.name.name === name && isdefined(x.name, :mt) || continue
        x.name.mt in tables[1:2] || push!(tables, x.name.mt)
    end
    methods = Method[]
    for table in tables
        table.defs === nothing || collect_methods(methods, table.defs)
    end
    methods
end

function collect_methods(methods::Vector{Method}, @nospecialize(at))
    if at isa Core.TypeMapLevel
        for list in (at.targ, at.arg1), i in 2:2:(list === nothing ? 0 : length(list))
            isassigned(list, i) && collect_methods(methods, list[i])
        end
        at.list === nothing || collect_methods(methods, at.list)
        at.any === nothing || collect_methods(methods, at.any)
        return
    end
    while at isa Core.TypeMapEntry
        method = at.func
        at.max_world == typemax(UInt) && method isa Method && method.module !== Describe && push!(methods, method)
        at = at.next
    end
end
