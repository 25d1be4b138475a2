"""Names that hostile pickles ask for."""

# Functions that run what they are given, open, load or connect, in modules that are there and that may be, and members
# of the very modules of which a few constructors are known. `module: names`, going on where a line is indented.
NAMES = """
os: system popen execv spawnv posix_spawn mkdir putenv remove
posix: system posix_spawn mkdir
nt: system
os.path: join
shutil: rmtree copyfile
pathlib: Path.write_text Path.unlink
subprocess: Popen call run check_output getoutput
commands: getoutput
pty: spawn
platform: popen
popen2: popen3
multiprocessing.util: spawnv_passfds
uuid: _get_command_stdout
_osx_support: _read_output
_aix_support: _read_cmd_output
_pyrepl.pager: pipe_pager
ctypes.util: _get_soname
builtins: eval exec compile getattr setattr __import__ open input breakpoint print map filter apply type
    object bytearray memoryview complex globals vars exit dict list str int super classmethod
__builtin__: eval exec execfile file getattr apply globals object unicode
__main__: __builtins__
sys: exit settrace modules
importlib: import_module
importlib.util: module_from_spec
imp: load_source
runpy: run_path run_module _run_code
code: interact InteractiveInterpreter.runcode
codeop: compile_command
timeit: timeit main
cProfile: run
profile: run
pdb: run Pdb.run
bdb: Bdb.run
trace: Trace.run
doctest: debug_script
test.support.os_helper: unlink
idlelib.pyshell: ModifiedInterpreter.runcode
idlelib.run: Executive.runcode
ensurepip: _run_pip
pip: main
venv: create
lib2to3.pgen2.grammar: Grammar.loadTables
lib2to3.pgen2.pgen: ParserGenerator.make_label
logging.config: listen
webbrowser: open
antigravity: geohash
socket: create_connection socket
urllib.request: urlopen
http.client: HTTPSConnection
ftplib: FTP
smtplib: SMTP
telnetlib: Telnet
imaplib: IMAP4_stream
xmlrpc.client: ServerProxy
asyncio: create_subprocess_shell
ssl: SSLContext
ctypes: CDLL cdll.LoadLibrary
_ctypes: dlopen
mmap: mmap
signal: alarm
threading: Thread
pickle: loads load Unpickler _Unpickler
_pickle: loads Unpickler
cPickle: loads
marshal: loads
shelve: open
dbm: open
sqlite3: connect
zipfile: ZipFile.extractall
tarfile: open
tempfile: mkstemp
linecache: getline
copyreg: _reconstructor __newobj__ __newobj_ex__ add_extension
copy_reg: _reconstructor
copy: copy
functools: partial reduce
_functools: partial
operator: attrgetter methodcaller itemgetter
_operator: attrgetter methodcaller
types: CodeType FunctionType MethodType ModuleType
typing: get_type_hints
dataclasses: make_dataclass
enum: Enum
collections: namedtuple Counter deque defaultdict UserDict _itemgetter OrderedDict.fromkeys abc
collections.abc: Callable
itertools: repeat product
string: Formatter.format
re: compile _compile
json: loads
_codecs: decode register lookup register_error lookup_error utf_7_decode
codecs: open decode encode
encodings: search_function
zlib: decompress
base64: b64decode
gzip: open
numpy: load save fromfile genfromtxt loadtxt memmap frombuffer zeros ones vectorize frompyfunc
    apply_along_axis savetxt recarray matrix f2py ndarray.tofile ndarray.__class__ dtype.__class__ testing
numpy.ma.core: _mareconstruct
numpy.core.multiarray: fromfile fromstring set_string_function
numpy._core.multiarray: fromfile frombuffer _vec_string _reconstruct.__call__
numpy.core.numeric: fromfunction
numpy._core.numeric: full
numpy._core._methods: _umath_linalg
numpy._core._internal: _ctypes
numpy._core.records: fromfile
numpy.lib.npyio: load NpzFile
numpy.lib._npyio_impl: load
numpy.lib.format: read_array
numpy.lib.utils: safe_eval
numpy.ctypeslib: load_library
numpy.distutils.exec_command: exec_command
numpy.testing._private.utils: runstring tempdir
numpy.f2py.crackfortran: myeval getlincoef
numpy.f2py: compile
numpy.random: _pickle.__randomstate_ctor
numpy.random._pickle: __bit_generator_ctor
numpy.__builtins__: eval
torch: load save Tensor tensor from_file compile hub FloatStorage.from_file UntypedStorage.from_file
    Size.__class__ device.__reduce__ ops
torch.hub: load
torch.jit: load
torch.serialization: load add_safe_globals
torch.storage: _load_from_bytes TypedStorage
torch._utils: _rebuild_device_tensor_from_numpy _rebuild_wrapper_subclass _import_dotted_name
    _rebuild_sparse_tensor _rebuild_qtensor _rebuild_meta_tensor_no_storage
torch._tensor: _rebuild_from_type_v2
torch.nn.modules.linear: Linear
torch.nn.modules.module: Module.__setstate__
torch.utils.cpp_extension: load
torch.utils._config_module: ConfigModule.load_config
torch.utils.bottleneck.__main__: run_cprofile
torch.utils.collect_env: run
torch.utils.data.datapipes.utils.decoder: basichandlers
torch.distributed.rpc.internal: _run_function
torch.jit.unsupported_tensor_ops: execWrapper
torch.fx.graph_module: _deserialize_graph_module
torch._dynamo.guards: GuardBuilder.get
torch._inductor.codecache: compile_file
torch._C: _jit_eval
torch.package: PackageImporter
torch.multiprocessing.reductions: rebuild_storage_fd rebuild_storage_filename
torch.cuda.amp: autocast_mode
torch.classes: load_library
joblib: load
joblib.numpy_pickle: NumpyArrayWrapper
dill: loads
dill._dill: _create_function
cloudpickle: loads
cloudpickle.cloudpickle: make_skel_func
pandas: read_pickle
pandas.io.common: get_handle
sklearn.utils._joblib: load
tensorflow.python.framework.load_library: load_op_library
keras.models: load_model
jax.experimental.io_callback: io_callback
jax._src.array: _reconstruct_array
flax.serialization: from_bytes
ml_dtypes: bfloat16
yaml: load unsafe_load full_load
transfer.runtime.files.unpickler: Constructor RestrictedUnpickler
transfer.runtime.files.pickles: load_arrays
transfer.cli: guarded
transfer.weights.readers: read
transfer.store.feature_files: write
google.protobuf.reflection: MakeClass
"""


def names() -> list[tuple[str, str]]:
    """(module, name) of NAMES."""
    lines = NAMES.replace("\n    ", " ").strip().splitlines()
    return [(line.split(": ")[0], name) for line in lines for name in line.split(": ")[1].split()]
