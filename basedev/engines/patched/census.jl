# What the statements of a base image's sources run, and what they give. Nothing in an image tells from what a constant,
# the expansion of a macro or generated code was computed while Julia was built.
#
# A statement is evaluated without effect: its macros are expanded and what it computes is computed, but no name is
# bound and no method is defined. What it calls is interpreted where the image has no native code. So each call goes
# through the cache of method dispatch, except from native code to native code of the image, which Julia keeps as edges.
# With the cache emptied before, it tells afterwards what was called; what that calls in turn without dispatch, Julia
# itself follows when it ends code.
#
# The record, in the machine's numbers: how many objects (UInt64) and where each lies in the image, as distance from the
# module Base (Int64); how many sets (UInt64), each its length (UInt64) and numbers of objects (UInt32, from 1); how many
# statements (UInt64), and the number of each one's set (UInt64). Objects are MethodInstances, and Methods of which
# something was called that is not in the image.

const BEGUN = UInt64[]  # the world before the steps of a trial
const CHANGED = Any[]  # signatures of the methods that they defined, replaced and deleted
const COMPILERS = Any[]  # of them, what Julia's compiler sees: methods that it had, signatures of others
const OF_COMPILER = Any[]  # and the compiler's own: methods that are new or gone

# ---- what is called ----

const MOST_GENERATED = 20  # specializations of one method, beside those that the compiler uses
const GENERATES, CALLS = " generates", " calls"  # what marks results
const MOST_DEEP = 2000  # levels of a value
const NO_ENTRIES = Memory{Any}()

in_image(@nospecialize(object)) = ccall(:jl_object_in_image, UInt8, (Any,), object) != 0x00
place(@nospecialize(object)) = Int64(pointer_from_objref(object))
object_at(offset) = unsafe_pointer_to_objref(Ptr{Cvoid}(offset + place(Base)))

# What is kept for an object, or what a function gives for it, kept then. A closure that had a type in it, for `get!`, would
# be compiled for each type.
function known!(f, kept::IdDict, @nospecialize(object))
    haskey(kept, object) || (kept[object] = f(object))
    return kept[object]
end

function set_field(@nospecialize(object), name::Symbol, @nospecialize(value))
    index = Base.fieldindex(typeof(object), name) - 1
    ccall(:jl_set_nth_field, Cvoid, (Any, Csize_t, Any), object, index, value)
end

# Each entry of a cache: of an array with keys and values, of a tree, or of a list.
function each_entry(visit, @nospecialize(cache))
    if cache isa Core.TypeMapEntry
        visit(cache)
        each_entry(visit, cache.next)
    elseif cache isa Core.TypeMapLevel
        for number in 1:nfields(cache)
            isdefined(cache, number) && each_entry(visit, getfield(cache, number))
        end
    elseif cache isa Memory{Any}
        for number in eachindex(cache)
            isassigned(cache, number) || continue
            one = cache[number]
            (one isa Core.TypeMapEntry || one isa Core.TypeMapLevel || one isa Memory{Any}) && each_entry(visit, one)
        end
    end
    return nothing
end

const ALL_METHODS = Method[]

# Empties the caches of dispatch, and gives the MethodInstances that were in them.
function take_called()
    cache = Core.methodtable.cache
    leaves, tree = cache.leafcache, cache.cache
    setfield!(cache, :leafcache, NO_ENTRIES, :sequentially_consistent)
    setfield!(cache, :cache, nothing, :sequentially_consistent)
    called = Any[]
    take = entry -> begin
        entry.func isa Core.MethodInstance && push!(called, entry.func)
        # a small cache beside these is told so that it is not valid
        unsafe_store!(Ptr{UInt}(place(entry) + fieldoffset(Core.TypeMapEntry, 6)), UInt(0))
    end
    each_entry(take, leaves)
    each_entry(take, tree)
    for method in ALL_METHODS
        method.invokes === nothing && continue
        each_entry(take, method.invokes)
        set_field(method, :invokes, nothing)
    end
    return called
end

# The objects of the image for what was called.
function noted(called)
    found, waiting = Base.IdSet{Any}(), called
    seen = Base.IdSet{Any}()
    while !isempty(waiting)
        one = pop!(waiting)
        one in seen && continue
        push!(seen, one)
        if one isa Method
            in_image(one) && push!(found, one)
            continue
        end
        instance = one isa Core.CodeInstance ? instance_of(one) : one
        method = instance.def
        (method isa Method && in_image(method)) || continue
        push!(found, in_image(instance) ? instance : method)
        isdefined(method, :unspecialized) && method.unspecialized isa Core.MethodInstance &&
            push!(waiting, method.unspecialized)
        # What was compiled here has edges that the image does not know.
        foreach(code -> in_image(code) || append!(waiting, callees(code)), codes_of(instance))
    end
    return found
end

instance_of(code) = code.def isa Core.MethodInstance ? code.def : code.def.def  # Core.ABIOverride

# The CodeInstances of a MethodInstance.
function codes_of(instance)
    found = Any[]
    isdefined(instance, :cache) || return found
    code = instance.cache
    while true
        push!(found, code)
        isdefined(code, :next) || return found
        code = code.next
    end
end

function callees(code)
    found = Any[]
    (isdefined(code, :edges) && code.edges isa Core.SimpleVector) || return found
    for edge in code.edges
        if edge isa Core.CodeInstance || edge isa Core.MethodInstance || edge isa Method
            push!(found, edge)
        elseif edge isa Type
            matches = Base._methods_by_ftype(edge, -1, Base.get_world_counter())
            foreach(match -> push!(found, match.method), something(matches, ()))
        end
    end
    return found
end

# ---- evaluating without effect ----

const GIVEN = Any[]  # what the statement under evaluation expands to, binds and defines
const BOUND = Any[]  # the modules and names that it binds
const WORLD = UInt[]  # in which this program runs, whatever is evaluated

# What evaluated code may call.
in_own_world(f) = (arguments...) -> Base.invoke_in_world(WORLD[1], f, arguments...)
evaluator(m::Module) = in_own_world() do arguments...
    length(arguments) == 1 ? suspended(m, arguments...) : suspended(arguments...)
end

# All macros, in a copy, with scopes: Julia 1.12 does that without asking, and doesn't look at the three numbers.
expand(m::Module, @nospecialize(tree)) = ccall(:jl_macroexpand, Any, (Any, Any, Cint, Cint, Cint), tree, m, 1, 0, 1)
is_counted(name::Symbol) = occursin('#', String(name))

# Expands and evaluates what stands at top level.
function suspended(m::Module, @nospecialize(tree))
    expanded = expand(m, tree)
    push!(GIVEN, expanded)
    return run_suspended(m, expanded)
end

function run_suspended(m::Module, @nospecialize(tree))
    tree isa Union{LineNumberNode,Nothing} && return nothing
    if Meta.isexpr(tree, :toplevel)
        foreach(part -> suspended(m, part), tree.args)
        return nothing
    elseif Meta.isexpr(tree, :block)
        foreach(part -> run_suspended(m, part), tree.args)
        return nothing
    end
    Meta.isexpr(tree, (:export, :public, :import, :using, :module, :global)) && length(tree.args) > 0 &&
        !Meta.isexpr(tree.args[1], :(=)) && return nothing
    is_plain_method(tree) && return nothing
    lowered = Meta.lower(m, tree)
    if Meta.isexpr(lowered, :toplevel)
        foreach(part -> suspended(m, part), lowered.args)
        return nothing
    elseif Meta.isexpr(lowered, (:error, :incomplete))
        error(lowered.args[1])
    elseif Meta.isexpr(lowered, :thunk)
        lowered = Expr(:thunk, without_effects(m, lowered.args[1]))
    end
    return Core.eval(m, lowered)
end

# A method whose signature names types and computes none.
function is_plain_method(@nospecialize(tree))
    Meta.isexpr(tree, (:function, :(=), :macro)) || return false
    length(tree.args) == 1 && return tree.args[1] isa Symbol
    signature = tree.args[1]
    while Meta.isexpr(signature, (:where, :(::))) && length(signature.args) > 1
        any(computes_type, signature.args[2:end]) && return false
        signature = signature.args[1]
    end
    return Meta.isexpr(signature, :call) && !any(computes_type, signature.args)
end

computes_type(@nospecialize(tree)) =
    Meta.isexpr(tree, :kw) ? computes_type(tree.args[1]) :
    Meta.isexpr(tree, :call) ? !(tree.args[1] in (:typeof, :(Core.Typeof))) || any(computes_type, tree.args[2:end]) :
    Meta.isexpr(tree, :quote) ? false : tree isa Expr && any(computes_type, tree.args)

# The code of a top-level statement with what it would bind and define only noted.
function without_effects(m::Module, code::Core.CodeInfo)
    changed = copy(code)
    for number in eachindex(changed.code)
        changed.code[number] = without_effect(m, changed.code[number])
    end
    return changed
end

is_name(@nospecialize(what), name::Symbol) = what isa GlobalRef && what.name === name

function without_effect(m::Module, @nospecialize(part))
    if part isa GlobalRef
        return part.name === :eval ? QuoteNode(evaluator(part.mod)) :
            part.name in (:include, :delete_method, :_eval_import, :_eval_using) ? QuoteNode(Returns(nothing)) : part
    end
    part isa Expr || return part
    head, arguments = part.head, part.args
    if head === :method
        length(arguments) == 1 && return is_counted(name_of(arguments[1])) ? part : nothing
        body = arguments[3]
        body = body isa Core.CodeInfo ? QuoteNode(body) : body
        return Expr(:call, QuoteNode(in_own_world(define)), QuoteNode(m), arguments[2], body)
    elseif head in (:const, :globaldecl, :global)
        is_counted(name_of(arguments[1])) && return part
        return head === :const && length(arguments) > 1 ? binding(m, arguments[1], arguments[2]) : nothing
    elseif head in (:export, :public, :import, :using)
        return nothing
    elseif head === :thunk
        return Expr(:thunk, without_effects(m, arguments[1]))
    elseif head === :(=)
        value = without_effect(m, arguments[2])
        arguments[1] isa GlobalRef && !is_counted(arguments[1].name) && return binding(m, arguments[1], value)
        return Expr(:(=), arguments[1], value)
    elseif head === :call && is_name(arguments[1], :setglobal!)
        name = arguments[3]
        return name isa QuoteNode && is_counted(name.value) ? part : binding(m, name, arguments[4])
    elseif head === :call && is_name(arguments[1], :declare_const)  # Julia 1.13's `const`
        is_counted(name_of(arguments[3])) && return part
        return length(arguments) > 3 ? binding(m, arguments[3], arguments[4]) : nothing
    elseif head === :call && is_name(arguments[1], :declare_global)  # and its `global`
        return is_counted(name_of(arguments[3])) ? part : nothing
    elseif head === :call && is_name(arguments[1], :getproperty) && arguments[3] == QuoteNode(:eval)
        return QuoteNode(evaluator(m))
    end
    head in (:copyast, :inert) && return part
    return Expr(head, Any[without_effect(m, one) for one in arguments]...)
end

name_of(@nospecialize(what)) =
    what isa GlobalRef ? what.name : what isa Symbol ? what : what isa QuoteNode ? name_of(what.value) : Symbol("#")

binding(m::Module, @nospecialize(name), @nospecialize(value)) =
    Expr(:call, QuoteNode(in_own_world(bind)), name isa GlobalRef ? name.mod : m, QuoteNode(name_of(name)), value)

function bind(m::Module, name, @nospecialize(value))
    push!(GIVEN, name, value)
    push!(BOUND, (m, name))
    return value
end

# The modules and names that a statement binds, also where a loop or a macro does, or to what they are bound to.
function bound_by(m::Module, @nospecialize(tree))
    empty!(BOUND)
    compiling(INTERPRET)
    try
        foreach(part -> part isa LineNumberNode || is_called(part) || suspended(m, part), tree.args)
    catch
        # what it does then is told by its evaluation
    finally
        compiling(COMPILE)
        empty!(GIVEN)
    end
    return unique!(copy(BOUND))
end

is_called(@nospecialize(part)) = Meta.isexpr(part, :call)

# Closures are defined: what is evaluated may call them.
function define(m::Module, signature, @nospecialize(body))
    push!(GIVEN, signature[1], signature[2], body)
    is_closures = any(signature[1]) do type
        type = Base.unwrap_unionall(type)
        type isa DataType && is_counted(type.name.name) && !in_image(type.name)
    end
    is_closures && ccall(:jl_method_def, Any, (Any, Ptr{Cvoid}, Any, Any), signature, C_NULL, body, m)
    return nothing
end

compiling(how) = unsafe_store!(
    Ptr{Int8}(cglobal(:jl_options) + fieldoffset(Base.JLOptions, Base.fieldindex(Base.JLOptions, :compile_enabled))),
    how,
)
const COMPILE, INTERPRET = Int8(1), Int8(3)

# ---- statements ----

const GENERATED = Method[]

struct Computing
    module_name::String
    file::String
    line::Int
    text::String
end

stands_in(one, file, line) = String(file) == one.file && one.line <= line <= one.line + count(==('\n'), one.text)

generated_by(one) = filter(GENERATED) do method
    stands_in(one, method.file, method.line) && string(method.module) == one.module_name
end

# Calls what generates code, as `jl_call_staged` does (method.c).
function generate(method)
    calls = 0
    for instance in Base.specializations(method)
        in_image(instance) || continue
        if isempty(compilers_codes(instance))
            calls == MOST_GENERATED && continue
            calls += 1
        end
        types = Base.unwrap_unionall(instance.specTypes).parameters
        own = method.isva ? Any[types[1:method.nargs-1]..., Tuple(types[method.nargs:end])] : Any[types...]
        try
            Base.invokelatest(method.generator, method.primary_world, method, instance.sparam_vals..., own...)
        catch
        end
    end
end

# Calls at top level are not done again, so what they reach is what they may call with arguments of these types.
function may_call(m::Module, @nospecialize(tree), found = Any[])
    tree isa Expr || return found
    if tree.head === :call
        called = called_by(m, tree)
        types = Any[Core.Typeof(called), types_of(m, tree.args[2:end])...]
        called isa Union{Function,Type} && may_be(Tuple{types...}, found)
        any(is_keyword, tree.args) && may_be(Tuple{typeof(Core.kwcall),NamedTuple,types...}, found)
    end
    foreach(part -> may_call(m, part, found), tree.args)
    return found
end

function may_be(@nospecialize(call), found)
    for match in something(Base._methods_by_ftype(call, -1, Base.get_world_counter()), ())
        push!(found, match.method)
        append!(found, filter(one -> typeintersect(one.specTypes, call) !== Union{}, collect(Base.specializations(match.method))))
    end
end

function called_by(m::Module, call::Expr)
    try
        Core.eval(m, call.args[1])
    catch
    end
end

is_keyword(@nospecialize(argument)) = Meta.isexpr(argument, (:parameters, :kw))

# Of arguments, without evaluating calls: those of types give such objects.
function types_of(m::Module, arguments)
    types = Any[]
    for one in arguments
        is_keyword(one) && continue
        Meta.isexpr(one, :...) && return push!(types, Vararg{Any})
        push!(types, type_of(m, one))
    end
    return types
end

function type_of(m::Module, @nospecialize(argument))
    argument isa Symbol && return isdefinedglobal(m, argument) ? Core.Typeof(getglobal(m, argument)) : Any
    Meta.isexpr(argument, :call) || return argument isa Union{Expr,QuoteNode} ? Any : Core.Typeof(argument)
    called = called_by(m, argument)
    return called isa Type ? called : Any
end

# How a call at top level is done again, if it can be: it makes an object that nothing keeps, so that it gets compiled, or
# loads how code is printed, which is nothing to do again; it makes a module one of those that are loaded; it gives the
# parser's words their numbers; it sets a field; it adds a handler of errors or what the compiler knows of a builtin to lists.
function how_again(m::Module, call::Expr)
    called = called_by(m, call)
    (called isa Type || called === Base.Compiler.load_irshow!) && return Returns(nothing)
    called === Base.register_root_module && return register
    called === Base.JuliaSyntax.register_kinds! && return number_words
    called === Base.Experimental.register_error_hint && return adding(values(Base.Experimental._hint_handlers)...)
    called === Base.Compiler.add_tfunc && return adding((getglobal(Base.Compiler, name) for name in OF_BUILTINS)...)
    return called === setfield! ? set : nothing
end

const OF_BUILTINS = (:T_IFUNC, :T_IFUNC_COST, :T_FFUNC_KEY, :T_FFUNC_VAL, :T_FFUNC_COST)
const CALLED = Any[]  # by what the statement under evaluation adds

# What is added to lists, which get their contents back.
adding(lists...) = (m::Module, call::Expr) -> begin
    compiling(COMPILE)
    before = map(copy, lists)
    take_called()
    try
        compiling(INTERPRET)
        suspended(m, call)
        compiling(COMPILE)
        append!(CALLED, take_called())
        foreach(note_added, lists, before)
    finally
        foreach((list, contents) -> copyto!(resize!(list, length(contents)), contents), lists, before)
        take_called()
        compiling(INTERPRET)  # what the statement evaluates after this
    end
end

function note_added(list::Vector, before::Vector)
    for number in eachindex(list)
        isassigned(list, number) || continue
        is_known = isassigned(before, number) && list[number] === before[number]
        is_known || push!(GIVEN, list[number])
    end
end

set(m::Module, call::Expr) = append!(GIVEN, Any[Core.eval(m, argument) for argument in call.args[3:end]])

function register(m::Module, call::Expr)
    root = Core.eval(m, call.args[2])
    in_order = copy(Base.loaded_modules_order)
    delete!(Base.loaded_modules, Base.PkgId(root))
    filter!(other -> other !== root, Base.loaded_modules_order)
    try
        Base.invokelatest(Base.register_root_module, root)
        push!(GIVEN, Base.loaded_modules[Base.PkgId(root)], copy(Base.loaded_modules_order))
    finally
        Base.loaded_modules[Base.PkgId(root)] = root
        append!(empty!(Base.loaded_modules_order), in_order)
    end
end

function number_words(m::Module, call::Expr)
    tables = (Base.JuliaSyntax._kind_str_to_int, Base.JuliaSyntax._kind_int_to_str, Base.JuliaSyntax._kind_modules)
    before = map(copy, tables)
    empty!(tables[1]), empty!(tables[2])
    map!(one -> one isa Module ? nameof(one) : one, values(tables[3]))  # as if none had come yet
    try
        Core.eval(m, call)
        append!(GIVEN, map(copy, tables))
    finally
        foreach((table, contents) -> merge!(empty!(table), contents), tables, before)
    end
end

# What a statement gives, as a digest, or Julia's message about an error; with what it calls.
function evaluated(one::Computing)
    foreach(empty!, (GIVEN, CALLED))
    called = Any[]
    gave = ""
    take_called()
    try
        m = find_module(one.module_name)
        tree = parse_as_built(m, one.text, one.file, one.line)
        parts = Any[part for part in tree.args if !(part isa LineNumberNode)]
        how = Any[is_called(part) ? how_again(m, part) : suspended for part in parts]
        for (part, again) in zip(parts, how)
            again === nothing && append!(called, may_call(m, part))
        end
        take_called()  # by what comes before this
        compiling(INTERPRET)  # closures of this program too
        try
            for (part, again) in zip(parts, how)
                is_called(part) && push!(GIVEN, part)
                again === nothing || again(m, part)
            end
            foreach(generate, generated_by(one))
        finally
            compiling(COMPILE)
            append!(called, CALLED, take_called())
        end
        gave = digest(GIVEN, one)
    catch error
        gave = "error: " * first(sprint(showerror, error), 300)
    end
    empty!(GIVEN)
    return gave, called
end

as_statements(steps) = Computing[Computing(words[1], words[2], numbers[1], words[3]) for (_, words, numbers) in steps]

function prepare()
    isempty(ALL_METHODS) || return
    each_method(method -> push!(ALL_METHODS, method))
    append!(GENERATED, filter(method -> isdefined(method, :generator), ALL_METHODS))
    take_called()
    # What this program needs is compiled, before code is interpreted.
    for text in (
        "const warm = string(1, :a => 2.0)",
        "for i in (:a, :b) @eval \$i(x::Int) = x end",
        "struct Warm x end",
        "let f(x) = x; global warm = f(2) end",
        "f(@nospecialize x) = 1",
        "const warm = Dict(1 => r\"a\")",
    )
        noted(evaluated(Computing("Main", "none", 1, text))[2])
    end
end

# What calls C is compiled when it is first called in this process. That runs Julia's compiler, which is no part of what a
# statement computes, and is not called when it does that again.
is_compilers_own(@nospecialize(one)) = one isa Core.MethodInstance && is_of_compiler(one.def)
is_compiling(@nospecialize(one)) = is_compilers_own(one) && one.def.name === :typeinf_ext_toplevel

function take_census(path, statements)
    prepare()
    number_of, objects = IdDict{Any,UInt32}(), Int64[]
    sets, set_of = Dict{Vector{UInt32},UInt64}(), UInt64[]
    in_order, gave = Vector{UInt32}[], Any[]
    for one in statements
        result, called = evaluated(one)
        any(is_compiling, called) && (called = append!(evaluated(one)[2], filter(!is_compilers_own, called)))
        push!(gave, result)
        numbers = UInt32[]
        for object in noted(called)
            number = get!(number_of, object) do
                push!(objects, place(object) - place(Base))
                UInt32(length(objects))
            end
            push!(numbers, number)
        end
        sort!(numbers)
        push!(set_of, get!(sets, numbers) do
            push!(in_order, numbers)
            UInt64(length(in_order))
        end)
    end
    open(path, "w") do io
        write(io, UInt64(length(objects)), objects, UInt64(length(in_order)))
        foreach(set -> write(io, UInt64(length(set)), set), in_order)
        write(io, UInt64(length(set_of)), set_of)
    end
    return gave
end

# The numbers of the statements that called what is another since the trial's steps.
function affected(path)
    return open(path) do io
        objects = read!(io, Vector{Int64}(undef, read(io, UInt64)))
        other = Bool[is_other(object_at(offset)) for offset in objects]
        read_set() = read!(io, Vector{UInt32}(undef, read(io, UInt64)))
        sets = Bool[any(number -> other[number], read_set()) for _ in 1:read(io, UInt64)]
        set_of = read!(io, Vector{UInt64}(undef, read(io, UInt64)))
        Any[number - 1 for number in eachindex(set_of) if sets[set_of[number]]]
    end
end

function is_other(@nospecialize(object))
    type = object isa Method ? object.sig : object.specTypes
    meets_changed(type) && return true
    object isa Method && return false
    return any(code -> BEGUN[1] <= code.max_world < typemax(UInt), codes_of(object))
end

# Whether a call may be of a method that the steps define, replace or delete. A closure would be compiled for each type.
function meets_changed(@nospecialize(type))
    for signature in CHANGED
        meet(type, signature) && return true
    end
    return false
end

# Whether a call may be one of both signatures.
function meet(@nospecialize(one), @nospecialize(other))
    first_of_one, first_of_other = (Base.unwrap_unionall(type).parameters[1] for type in (one, other))
    first_of_one isa DataType && first_of_other isa DataType && isconcretetype(first_of_one) &&
        isconcretetype(first_of_other) && first_of_one !== first_of_other && return false
    return typeintersect(one, other) !== Union{}
end

# What statements give now. After a trial, those that are taken for others in any case are marked: a generator runs in
# the world in which its method was defined, and a call at top level is not done again.
function results(statements)
    prepare()
    return Any[evaluated(one)[1] * (isempty(BEGUN) ? "" : mark(one)) for one in statements]
end

function mark(one)
    isempty(generated_by(one)) || return GENERATES
    m = find_module(one.module_name)
    tree = parse_as_built(m, one.text, one.file, one.line)
    return all(part -> !is_called(part) || how_again(m, part) !== nothing, tree.args) ? "" : CALLS
end

# Has what documents definitions document all statements again, in docstrings that are empty, and gives a digest of these.
function documented(steps)
    before = Any[(table, copy(table)) for table in (Base.Docs.keywords, map(Base.Docs.meta, Base.Docs.modules)...)]
    failed = Any[]
    foreach(((table, _),) -> empty!(table), before)
    for (_, words, numbers) in steps
        m = find_module(words[1])
        try
            foreach(part -> suspended(m, part), tree_of(words, numbers).args)
        catch error
            push!(failed, first(sprint(showerror, error), 300))
        end
        empty!(GIVEN)
    end
    after = Any[Base.Docs.keywords]
    foreach(m -> push!(after, m, Base.Docs.meta(m)), Base.Docs.modules)
    told = digest(push!(after, failed))
    foreach(((table, contents),) -> merge!(empty!(table), contents), before)
    return told
end

# Methods whose generator was never called, so that it is not known what it runs.
never_generated() = Any[
    Any[String(method.file), Int(method.line)] for method in GENERATED if !any(in_image, Base.specializations(method))]

# ---- digests ----

const TYPE_TEXTS = IdDict{Any,String}()
const UNDEFINED = r"^const \w+ = \w+\{[^()]*\}\(undef, [^()]*\)\s*$"  # what is filled later

mutable struct Digest
    hash::UInt64
    const seen::Base.IdSet{Any}
    const closures::Base.IdSet{Any}
    const of::Union{Computing,Nothing}  # the statement that gave it
end

add(digest::Digest, byte::UInt8) = (digest.hash = (digest.hash ⊻ byte) * 0x00000100000001b3; nothing)
function add_bytes(digest::Digest, from::Ptr{UInt8}, count::Int)
    for number in 1:count
        add(digest, unsafe_load(from, number))
    end
end
function add_text(digest::Digest, text::String)
    foreach(byte -> add(digest, byte), codeunits(text))
    add(digest, 0x00)
end

# Names that the compiler makes have counters in them, and ids of log messages depend on those that there are.
function add_name(digest::Digest, name::String)
    counted = occursin('#', name)
    units = codeunits(name)
    last = length(units)
    is_digit(byte) = byte in UInt8('0'):UInt8('9') || byte in UInt8('a'):UInt8('f')
    is_id = last > 9 && units[last-8] == UInt8('_') && all(is_digit, units[last-7:last])
    for byte in units[1:(is_id ? last - 8 : last)]
        counted && byte in UInt8('0'):UInt8('9') || add(digest, byte)
    end
    add(digest, 0x00)
end

function digest(values, of = nothing)
    made = Digest(0xcbf29ce484222325, Base.IdSet{Any}(), Base.IdSet{Any}(), of)
    foreach(value -> add_value(made, value, 0), values)
    return string(made.hash, base = 16, pad = 16)
end

function add_value(digest::Digest, @nospecialize(value), depth::Int)
    depth > MOST_DEEP && return add_text(digest, "deep")
    if value isa Symbol
        return add_name(digest, String(value))
    elseif value isa Type || value isa TypeVar
        add_name(digest, full_text(value))
        return add_closures(digest, value)
    elseif value isa LineNumberNode
        # lines move by themselves, but a macro may place its code in another file, or where it is used
        value.file isa Symbol || return nothing
        add_text(digest, String(value.file))
        return add(digest, UInt8(digest.of !== nothing && stands_in(digest.of, value.file, value.line)))
    elseif value isa Union{Core.LegacyLineInfoNode,Core.DebugInfo}
        return nothing
    elseif value isa Core.TypeName  # its fields are what is known of the type at this moment
        return add_name(digest, string(value.module, '.', value.name))
    end
    type = typeof(value)
    add_name(digest, known!(full_text, TYPE_TEXTS, type))
    add_closures(digest, type)
    if value isa GlobalRef && is_counted(value.name) && isdefined(value.mod, value.name)
        add_closures(digest, getglobal(value.mod, value.name))
    end
    if value isa Module
        add_name(digest, String(nameof(value)))
    elseif value isa String
        add_text(digest, value)
    elseif value isa Union{Method,Core.MethodInstance,Core.CodeInstance,Core.Binding,Task,Ptr,WeakRef,Base.AbstractLock,IOStream,
                           Base.LibuvStream}
        # what is of one process, or of this moment
    elseif value isa BigFloat && getfield(value, 1) isa Memory
        # precision, sign, exponent, a pointer, and digits, which zero, infinities and NaN do not have
        words = getfield(value, 1)
        foreach(word -> add_value(digest, word, depth + 1), (words[1], words[2] % UInt32, words[3]))
        if words[3] % Int > typemin(Int) + 3
            foreach(word -> add_value(digest, word, depth + 1), words[5:end])
        end
    elseif value isa Core.CodeInfo
        for field in (:code, :slotnames, :inlining, :propagate_inbounds, :purity, :constprop, :nospecializeinfer)
            add_value(digest, getfield(value, field), depth + 1)
        end
    elseif value isa Core.SimpleVector
        foreach(part -> add_value(digest, part, depth + 1), value)
    elseif value isa Array || value isa Memory
        foreach(length -> add_value(digest, length, depth + 1), size(value))
        if isbitstype(eltype(value)) && !(eltype(value) <: Ptr)
            digest.of !== nothing && occursin(UNDEFINED, digest.of.text) && return nothing
            GC.@preserve value add_bytes(digest, Ptr{UInt8}(pointer(value)), sizeof(value))
        else
            for number in eachindex(value)
                isassigned(value, number) && add_value(digest, value[number], depth + 1)
            end
        end
    elseif value isa Dict || value isa IdDict
        # in no order: it may depend on addresses
        hash, total = digest.hash, UInt64(0)
        for (key, kept) in value
            digest.hash = 0xcbf29ce484222325
            add_value(digest, key, depth + 1)
            add_value(digest, kept, depth + 1)
            total += digest.hash
        end
        digest.hash = hash
        add_value(digest, total, depth + 1)
    elseif isprimitivetype(type)
        box = Ref{Any}(value)
        GC.@preserve box add_bytes(digest, unsafe_load(Ptr{Ptr{UInt8}}(place(box))), sizeof(type))
    else
        if ismutabletype(type)
            value in digest.seen && return add_text(digest, "again")
            push!(digest.seen, value)
        end
        for number in 1:nfields(value)
            isdefined(value, number) && !is_unset(value, number) &&
                add_value(digest, getfield(value, number), depth + 1)
        end
    end
    return nothing
end

# Whether a field of an object is memory that was never written.
is_unset(@nospecialize(value), number::Int) =
    value isa BitVector ? fieldname(BitVector, number) === :dims :
    value isa Base.ScopedValues.ScopedValue && number == 2 && getfield(value, 1) === false

# A closure that an edited function makes is another one under a name that differs by its counter only: closures are told by
# what they do.
function add_closures(digest::Digest, @nospecialize(type))
    type = Base.unwrap_unionall(type)
    if type isa Union
        add_closures(digest, type.a)
        add_closures(digest, type.b)
    elseif type isa DataType
        name = type.name
        if is_counted(name.name) && name.wrapper <: Function && !(name in digest.closures)
            push!(digest.closures, name)
            foreach(method -> add_method(digest, method), methods_of(name))
        end
        foreach(part -> add_closures(digest, part), type.parameters)
    end
    return nothing
end

# The type of a function `f` is `#f`, that of a closure `#f#1` or `#1#2`.
is_counted(name::Symbol) = occursin('#', SubString(String(name), nextind(String(name), 1)))

function methods_of(name::Core.TypeName)
    found = Base._methods_by_ftype(Tuple{name.wrapper,Vararg{Any}}, -1, Base.get_world_counter())
    called(method) = Base.unwrap_unionall(Base.unwrap_unionall(method.sig).parameters[1])
    return Method[match.method for match in something(found, ()) if called(match.method) isa DataType &&
                                                                     called(match.method).name === name]
end

function add_method(digest::Digest, method::Method)
    add_name(digest, full_text(method.sig))
    add_value(digest, lowered(method), 0)
end

lowered(method::Method) =
    isdefined(method, :source) && method.source !== nothing ? Base.uncompressed_ir(method) : nothing
