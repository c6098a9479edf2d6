# Writes what is in the image that runs this program, one fact a line, to the file named by its argument:
#     kind <tab> what <tab> its description
# for `basedev verify`, which compares two images. Facts of the same kind about the same thing may stand several times.
#
# Names that Julia makes have numbers of counters in them (`#12#13`, `#s28`); they are numbered anew in each
# description, by first occurrence.
#
# Of values, what is told follows from their types. What lives in one process only (pointers, tasks, locks, streams and
# their handles, weak references), what is there to be changed (variables, `Ref`s) and what the runtime keeps for itself
# (method tables, compiled code) is named by its type only. Memory that was never written holds anything: bits of fields
# that constructors may leave out, limbs of infinite BigFloats, and the buffers in UNTOLD, which nothing tells from
# tables. Dictionaries are told in the order of their entries' descriptions, for that of their slots follows addresses.
#
# The program defines no types and few methods, calls builtins where a generic function would be compiled anew for each
# type of argument, and leaves out its own module.

module Describe

const MODULES = IdDict{Module,String}()
const OUTPUT = IOBuffer()
const CODE = IOBuffer() # of the description under way
const VARIABLES = IdDict{TypeVar,Int}() # of the fact under way
const LINES = Tuple{String,Int}[] # its files and line numbers, which are facts of their own
const SHOWN = 3000 # bytes of a description that are told; of more, a hash
const DEEPEST = 14 # levels of a value that are told
const LONGEST = 1 << 19 # bytes of a value's description that are told

# What depends on how this Julia keeps what is told.
include(VERSION < v"1.6" ? "describe_stock15.jl" : "describe_patched.jl")

stray(@nospecialize(x)) = x isa Module && nameof(x) === STRAY

# ---- names

function path(m::Module)
    get!(MODULES, m) do
        parent = parentmodule(m)
        (m === Base || m === Core || m === Main || parent === m) && return string(nameof(m))
        string(path(parent), '.', nameof(m))
    end::String
end

# Where a source file is in a checkout; the images remember where each was built.
function place(file::AbstractString)
    file == Base.Sys.BUILD_STDLIB_PATH && return "stdlib"
    endswith(file, ".jl") || return String(file)
    for (mark, instead) in ((STDLIB, "stdlib/"), ("/stdlib/", "stdlib/"), ("/base/", ""))
        found = findlast(mark, file)
        found === nothing || return place(string(instead, SubString(file, last(found) + 1)))
    end
    startswith(file, "./") ? String(SubString(file, 3)) : String(file)
end

word(name::Symbol) = (text = String(name); '#' in text ? string("var\"", text, '"') : text)

isdigit(byte::UInt8) = 0x30 <= byte <= 0x39

# Numbers the counters in names anew: digits that follow `#`, `##` or `#s`, of which each is a counter of its own.
function renumbered(text::Vector{UInt8})
    0x23 in text || return text
    seen = Dict{SubArray{UInt8,1,Vector{UInt8},Tuple{UnitRange{Int}},true},Int}()
    out = UInt8[]
    sizehint!(out, length(text))
    i, n = 1, length(text)
    while i <= n
        byte = text[i]
        push!(out, byte)
        i += 1
        byte == 0x23 || continue
        first = i
        if i < n && text[i] == UInt8('s') && isdigit(text[i + 1])
            push!(out, text[i])
            i += 1
        end
        j = i
        while j <= n && isdigit(text[j])
            j += 1
        end
        if j > i
            begins = first > 2 && text[first - 2] == 0x23 ? first - 1 : first  # of variables and of closures: no relation
            number = get!(seen, view(text, begins:j-1), length(seen) + 1)
            append!(out, codeunits(string(number)))
            i = j
        end
    end
    out
end
renumbered(text::String) = String(renumbered(Vector{UInt8}(codeunits(text))))

# FNV-1a, for the images' own hash function may be what was edited.
function digest(text::Vector{UInt8})
    h = 0xcbf29ce484222325
    for byte in text
        h = (h ⊻ byte) * 0x00000100000001b3
    end
    string(h, base = 16, pad = 16)
end

function escaped(io::IO, text::AbstractVector{UInt8})
    for byte in text
        byte == UInt8('\n') ? write(io, "\\n") : byte == UInt8('\t') ? write(io, "\\t") :
            byte == UInt8('\\') ? write(io, "\\\\") : byte < 0x20 ? write(io, '?') : write(io, byte)
    end
end

function fact(kind::String, what::String, description::Vector{UInt8})
    write(OUTPUT, kind, '\t')
    escaped(OUTPUT, renumbered(Vector{UInt8}(codeunits(what))))
    write(OUTPUT, '\t')
    description = renumbered(description)
    if length(description) <= SHOWN
        escaped(OUTPUT, description)
    else
        escaped(OUTPUT, view(description, 1:SHOWN))
        write(OUTPUT, "... (", string(length(description)), " bytes, ", digest(description), ')')
    end
    write(OUTPUT, '\n')
    empty!(VARIABLES)
    nothing
end
fact(kind::String, what::String, description::String) = fact(kind, what, Vector{UInt8}(codeunits(description)))

# ---- types

# Two variables that lowering named (`{<:Real}`) may have the same name by chance.
function spelled(v::TypeVar)
    text = string(v.name)
    named = startswith(text, "#s") && sizeof(text) > 2 && isdigit(codeunit(text, 3))
    named ? string("#s", get!(VARIABLES, v, length(VARIABLES) + 1)) : text
end

function type(io::IO, @nospecialize(t))
    if t isa DataType
        name = t.name
        if isdefined(t, :instance) && t <: Function
            m, f = name_of_function(name)
            if isdefined(m, f) && isconst(m, f) && getfield(m, f) === t.instance
                write(io, "typeof(", path(m), '.', word(f), ')')
                return
            end
        end
        name.module === Core || write(io, path(name.module), '.')
        write(io, word(name.name))
        parameters(io, t.parameters, t.name === Tuple.name)
    elseif t isa UnionAll
        type(io, t.body)
        write(io, " where ")
        variable(io, t.var)
    elseif t isa Union
        write(io, "Union{")
        while t isa Union
            type(io, t.a)
            write(io, ", ")
            t = t.b
        end
        type(io, t)
        write(io, '}')
    elseif t isa TypeVar
        write(io, spelled(t))
    elseif t === Union{}
        write(io, "Union{}")
    elseif !vararg(io, t)
        value(io, t)
    end
    nothing
end

function parameters(io::IO, list::Core.SimpleVector, always::Bool)
    length(list) == 0 && !always && return
    write(io, '{')
    for i in 1:length(list)
        i > 1 && write(io, ", ")
        type(io, list[i])
    end
    write(io, '}')
    nothing
end

function variable(io::IO, v::TypeVar)
    if v.lb !== Union{}
        type(io, v.lb)
        write(io, "<:")
    end
    write(io, spelled(v))
    if v.ub !== Any
        write(io, "<:")
        type(io, v.ub)
    end
    nothing
end

typed(@nospecialize(t)) = (io = IOBuffer(); type(io, t); String(take!(io)))

# ---- values and code

function number(io::IO, @nospecialize(x))
    if x isa Union{Bool,Int8,Int16,Int32,Int64,UInt8,UInt16,UInt32,UInt64}
        write(io, string(x))
    else
        n = sizeof(x)
        bits = n == 1 ? UInt64(Core.bitcast(UInt8, x)) : n == 2 ? UInt64(Core.bitcast(UInt16, x)) :
               n == 4 ? UInt64(Core.bitcast(UInt32, x)) : n == 8 ? Core.bitcast(UInt64, x) : nothing
        bits === nothing ? write(io, string(Core.bitcast(UInt128, x))) : write(io, "0x", string(bits, base = 16))
    end
    nothing
end

# Base.CoreLogging.log_record_id: a module's name and a hash of the message as it printed when it was expanded, in a rebuild by
# a Base of which only a part was there.
function is_log_id(name::String)
    n = sizeof(name)
    n > 9 && codeunit(name, n - 8) == UInt8('_') || return false
    for i in n-7:n
        byte = codeunit(name, i)
        isdigit(byte) || UInt8('a') <= byte <= UInt8('f') || return false
    end
    return true
end

# Some macros' variables have a count for a name.
function slot(name::String)
    for byte in codeunits(name)
        isdigit(byte) || return name
    end
    return sizeof(name) == 0 ? name : "#"
end

function value(io::IOBuffer, @nospecialize(x), stack::Vector{Any} = Any[])
    if x isa Type
        type(io, x)
    elseif x isa TypeVar
        variable(io, x)
    elseif x isa Symbol
        write(io, ':', is_log_id(string(x)) ? "a log message's id" : place(string(x)))
    elseif x isa Module
        write(io, path(x))
    elseif x isa String
        write(io, '"', place(x), '"')
    elseif x isa Fleeting
        write(io, "a ")
        type(io, typeof(x))
    elseif x isa BigFloat
        special = x.exp <= typemin(Clong) + 3 # mpfr-impl.h
        write(io, "BigFloat(", string(x.prec), ' ', string(x.sign), ' ', string(x.exp), ' ')
        special || limbs(io, x)
        write(io, ')')
    elseif x isa Union{Int64,Bool}
        number(io, x)
    elseif isprimitivetype(typeof(x))
        type(io, typeof(x))
        write(io, '(')
        number(io, x)
        write(io, ')')
    elseif isdefined(typeof(x), :instance) # one of its kind: a function, nothing
        type(io, typeof(x))
    elseif x isa LineNumberNode
        write(io, "#line")
        push!(LINES, (place(string(x.file)), x.line))
    elseif length(stack) >= DEEPEST || io.size > LONGEST
        write(io, "...")
    elseif any(y -> y === x, stack)
        write(io, "(itself)")
    else
        push!(stack, x)
        compound(io, x, stack)
        pop!(stack)
    end
    nothing
end

# `Base.f`: a reference to a global, or a call for it where `Base` was not resolved in its module yet (src/method.c,
# resolve_globals), which depends on what was evaluated before.
function member_of_module(e::Expr)
    e.head === :call && length(e.args) == 3 || return nothing
    get, owner, name = e.args[1], e.args[2], e.args[3]
    get isa GlobalRef && get.name === :getproperty && name isa QuoteNode && name.value isa Symbol || return nothing
    owner isa GlobalRef && isdefined(owner.mod, owner.name) && isconst(owner.mod, owner.name) || return nothing
    m = getfield(owner.mod, owner.name)
    return m isa Module ? GlobalRef(m, name.value) : nothing
end

function compound(io::IOBuffer, @nospecialize(x), stack::Vector{Any})
    if x isa Expr && (member = member_of_module(x)) !== nothing
        value(io, member, stack)
    elseif x isa Expr
        write(io, string(x.head), '(')
        for i in 1:length(x.args)
            i > 1 && write(io, ", ")
            isassigned(x.args, i) ? value(io, x.args[i], stack) : write(io, "#undef")
        end
        write(io, ')')
    elseif x isa GlobalRef
        write(io, path(x.mod), '.', string(x.name))
    elseif x isa Core.SlotNumber
        write(io, '_', string(x.id))
    elseif x isa Core.SSAValue
        write(io, '%', string(x.id))
    elseif x isa Core.GeneratedFunctionStub
        write(io, "generated by ")
        value(io, x.gen, stack)
        value(io, x.argnames, stack)
        value(io, x.spnames, stack)
        place_of_generator(x)
    elseif x isa Core.CodeInfo
        code(io, x, stack)
    elseif x isa Core.SimpleVector
        write(io, "svec(")
        for i in 1:length(x)
            i > 1 && write(io, ", ")
            isassigned(x, i) ? value(io, x[i], stack) : write(io, "#undef")
        end
        write(io, ')')
    elseif x isa List
        type(io, typeof(x))
        write(io, join(dimensions(x), 'x'), '[')
        for i in 1:count(x)
            i > 1 && write(io, ", ")
            io.size > LONGEST && break
            assigned(x, i) ? value(io, element(x, i), stack) : write(io, "#undef")
        end
        write(io, ']')
    elseif x isa Union{Dict,IdDict}
        table(io, x, stack)
    else
        t = typeof(x)
        type(io, t)
        write(io, '(')
        for i in 1:nfields(x)
            i > 1 && write(io, ", ")
            isdefined(x, i) || (write(io, "#undef"); continue)
            i > initialized(t) && isbitstype(fieldtype(t, i)) || value(io, getfield(x, i), stack)
        end
        write(io, ')')
    end
    nothing
end

function table(io::IOBuffer, @nospecialize(d), stack::Vector{Any})
    entries = String[]
    entry = IOBuffer()
    function told(@nospecialize(k), @nospecialize(v))
        (stray(k) || stray(v)) && return
        value(entry, k, stack)
        write(entry, " => ")
        value(entry, v, stack)
        push!(entries, renumbered(String(take!(entry))))
    end
    if d isa IdDict
        ht = getfield(d, :ht)
        for i in 1:2:count(ht)
            assigned(ht, i) && assigned(ht, i + 1) && told(element(ht, i), element(ht, i + 1))
        end
    else
        slots, ks, vs = getfield(d, :slots), getfield(d, :keys), getfield(d, :vals)
        for i in 1:count(slots)
            is_filled(element(slots, i)) && told(element(ks, i), element(vs, i))
        end
    end
    type(io, typeof(d))
    write(io, '(')
    for (i, text) in enumerate(sort!(entries))
        i > 1 && write(io, ", ")
        write(io, text)
    end
    write(io, ')')
    nothing
end

function code(io::IOBuffer, c::Core.CodeInfo, stack::Vector{Any})
    write(io, "code(", c.propagate_inbounds ? "inbounds " : "")
    flags(io, c)
    for i in 1:length(c.slotnames)
        write(io, slot(string(c.slotnames[i])), '/', string(c.slotflags[i]), ' ')
    end
    for statement in c.code
        write(io, "; ")
        value(io, statement, stack)
    end
    write(io, ')')
    lines_of(c)
    nothing
end

# ---- what there is

function every_module()
    found = Module[]
    todo = Module[ROOTS..., values(Base.loaded_modules)...]
    while !isempty(todo)
        m = pop!(todo)
        (m in found || m === Describe || stray(m)) && continue
        push!(found, m)
        for name in names(m, all = true)
            (isdefined(m, name) && !Base.isdeprecated(m, name)) || continue
            inner = getfield(m, name)
            inner isa Module && parentmodule(inner) === m && push!(todo, inner)
        end
    end
    found
end

function describe_module(m::Module)
    # In any order: a name that two of them export, and that is not the same in both, is not found (jl_get_binding).
    used = sort!(map(path, ccall(:jl_module_usings, Any, (Any,), m)::Vector{Any}))
    fact("module", path(m), string("parent ", path(parentmodule(m)), ", using ", join(used, ' ')))
    for name in names(m, all = true, imported = true)
        (name === STRAY || m === Main && name === :Describe) && continue
        describe_binding(m, name)
    end
end

owner(m::Module, name::Symbol) = Base.binding_module(m, name)

function describe_binding(m::Module, name::Symbol)
    what = string(path(m), '.', word(name))
    of = owner(m, name)
    io = CODE
    Base.isexported(m, name) ? write(io, "exported ") : is_public(m, name) && write(io, "public ")
    old = Base.isdeprecated(m, name)
    old && write(io, "deprecated ")
    if of !== m
        write(io, "from ", path(of))
        fact("name", what, take!(io))
        return
    end
    if !isdefined(m, name)
        write(io, "undefined")
        fact("name", what, take!(io))
        return
    end
    constant = isconst(m, name)
    write(io, constant ? "constant " : "variable ")
    x = getfield(m, name)
    constant ? type(io, typeof(x)) : declared(io, m, name)
    fact("name", what, take!(io))
    if constant && name !== Base.Docs.META && !(what in UNTOLD)
        value(io, x)
        empty!(LINES)
        fact("value", what, take!(io))
    end
    constant && x isa Type && describe_type(m, name, x)
    nothing
end

function describe_type(m::Module, name::Symbol, @nospecialize(x))
    t = Base.unwrap_unionall(x)
    t isa DataType && t.name.module === m && t.name.name === name || return
    io = CODE
    kind(io, t)
    isprimitivetype(t) && write(io, "primitive ", string(Core.sizeof(t)), ' ')
    while x isa UnionAll
        variable(io, x.var)
        write(io, ' ')
        x = x.body
    end
    write(io, "<: ")
    type(io, t.super)
    if has_fields(t)
        types = types_of_fields(t)
        for i in 1:length(types)
            write(io, "; ", string(t.name.names[i]), "::")
            type(io, types[i])
        end
        write(io, "; ", string(initialized(t)), " initialized")
    end
    fact("type", string(path(m), '.', word(name)), take!(io))
end

function describe_method(m::Method)
    what = typed(m.sig)
    name = String(m.name)
    isdigit(codeunit(name, 1)) && (name = string('#', name)) # a counter, as the name of a closure's method for keywords begins with
    fact("method", what, string(path(m.module), " ", name, ", ", m.nargs, " arguments ",
        join(map(slot ∘ String, split(m.slot_syms, '\0')), ' '), m.isva ? "varargs " : "", flags(m), "nospecialize ",
        m.nospecialize, " called ", m.called, " keywords ", m.nkw, isdefined(m, :ccallable) ? " ccallable" : ""))
    if isdefined(m, :generator)
        value(CODE, m.generator)
    end
    if is_told(m) && isdefined(m, :source) && m.source !== nothing
        value(CODE, Base.uncompressed_ir(m))
    end
    fact("code", what, take!(CODE))
    fact("place", what, string(place(string(m.file)), ':', m.line))
    describe_lines(what)
end

# Lines as they follow each other, counted in each file from the first one there; and these first ones.
function describe_lines(what::String)
    firsts = Tuple{String,Int}[]
    for (file, line) in LINES
        at = findfirst(first -> first[1] == file, firsts)
        at === nothing && push!(firsts, (file, line))
        write(CODE, string(at === nothing ? length(firsts) : at), '+', string(at === nothing ? 0 : line - firsts[at][2]), ' ')
    end
    empty!(LINES)
    fact("lines", what, take!(CODE))
    fact("first lines", what, join((string(file, ':', line) for (file, line) in firsts), ' '))
end

function describe_documentation(m::Module)
    for (binding, documented) in documentation(m)
        if !(documented isa Base.Docs.MultiDoc) # of a module, for one
            value(CODE, documented)
            empty!(LINES)
            fact("docstring", string(shown(binding), " in ", path(m)), take!(CODE))
            continue
        end
        name = string(shown(binding), " in ", path(m))
        fact("docstring order", name, join((typed(signature) for signature in documented.order), "; "))
        for (signature, doc) in documented.docs
            for part in doc.text
                part isa String ? write(CODE, part) : value(CODE, part)
            end
            what = string(name, " ", typed(signature))
            fact("docstring", what, take!(CODE))
            fact("docstring line", what, string(get(doc.data, :linenumber, 0)))
            for key in sort!(collect(keys(doc.data)))
                key === :linenumber && continue
                write(CODE, string(key), '=')
                value(CODE, doc.data[key])
                write(CODE, ' ')
            end
            empty!(LINES)
            fact("docstring data", what, take!(CODE))
        end
    end
end

shown(@nospecialize(binding)) =
    binding isa Base.Docs.Binding ? string(path(binding.mod), '.', word(binding.var)) : (value(CODE, binding); String(take!(CODE)))

function main(file::String)
    modules = every_module()
    for m in modules
        describe_module(m)
        describe_documentation(m)
    end
    for m in every_method(modules)
        describe_method(m)
    end
    write(file, take!(OUTPUT))
end

end

Describe.main(ARGS[1])
