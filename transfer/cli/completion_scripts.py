"""What shtab does not make: completions of `python -m transfer …`, and of experiments, as verbs and as scripts.

@TRAIN@ and @EXTRACT@ stand for the flags, @CASES@ for the values of those that have few, @CONFIGS@ for the names of the
packaged configs.
"""

BASH = r"""
# replies with lines; a flag that takes a value is not followed by a space
__transfer_reply() {
  local line
  while IFS= read -r line; do COMPREPLY+=("$line"); done <<< "$1"
  [[ -n $1 ]] || COMPREPLY=()
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}

# $1: the flags that there are. Bash splits --flag=value at its "=", unless COMP_WORDBREAKS was changed.
__transfer_script() {
  local word=${COMP_WORDS[COMP_CWORD]} flag="" before=""
  COMPREPLY=()
  if [[ $word == --*=* ]]; then
    flag=${word%%=*} word=${word#*=} before="$flag="
  elif [[ $word == "=" ]]; then
    flag=${COMP_WORDS[COMP_CWORD-1]} word=""
  elif [[ ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then
    flag=${COMP_WORDS[COMP_CWORD-2]}
  fi
  case $flag in
    "") __transfer_reply "$(compgen -W "$1" -- "$word")" ;;
    --config) __transfer_reply "$(compgen -W "@CONFIGS@" -- "$word"
      compgen -f -X '!*.py' -- "$word"; compgen -d -S / -- "$word")"
      [[ ${COMPREPLY[0]} == */ ]] && compopt -o nospace 2>/dev/null ;;
    --workdir) compopt -o filenames 2>/dev/null; __transfer_reply "$(compgen -d -- "$word")" ;;
@CASES@
    *) compopt -o filenames 2>/dev/null; __transfer_reply "$(compgen -f -- "$word")" ;;
  esac
  [[ -n $before ]] && COMPREPLY=("${COMPREPLY[@]/#/$before}")
  return 0
}

__transfer_verb() {
  ((COMP_CWORD > 1)) && case ${COMP_WORDS[1]} in
    train) __transfer_script "@TRAIN@"; return ;;
    extract) __transfer_script "@EXTRACT@"; return ;;
  esac
  _shtab_transfer "$@"
}

__transfer_python() {
  if [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == transfer ]] && ((COMP_CWORD > 2)); then
    local COMP_WORDS=(transfer "${COMP_WORDS[@]:3}") COMP_CWORD=$((COMP_CWORD - 2))
    __transfer_verb
    return
  fi
  COMPREPLY=()
  ((COMP_CWORD > 1)) && case ${COMP_WORDS[1]##*/} in
    train.py) __transfer_script "@TRAIN@" ;;
    extract.py) __transfer_script "@EXTRACT@" ;;
  esac
  return 0
}

complete -o bashdefault -o default -F __transfer_python python python3
complete -o filenames -F __transfer_verb transfer
"""

ZSH = r"""
# $1: the flags that there are
__transfer_script() {
  local flag=${PREFIX%%\=*}
  if ! compset -P '--*='; then
    local -a flags=(${=1})
    compadd -S '' -- ${(M)flags:#*=}
    compadd -- ${flags:#*=}
    return
  fi
  case $flag in
    --config) compadd -- @CONFIGS@; _files -g '*.py' ;;
    --workdir) _files -/ ;;
@CASES@
    *) _files ;;
  esac
}

__transfer_verb() {
  case $words[2] in
    train) (( CURRENT > 2 )) && { __transfer_script "@TRAIN@"; return } ;;
    extract) (( CURRENT > 2 )) && { __transfer_script "@EXTRACT@"; return } ;;
  esac
  _shtab_transfer
}

__transfer_python() {
  setopt localoptions extendedglob
  if [[ $words[2] == -m && $words[3] == transfer ]] && (( CURRENT > 3 )); then
    words=(transfer "${(@)words[4,-1]}")
    (( CURRENT -= 2 ))
    __transfer_verb
  elif [[ ${words[2]:t} == train.py ]] && (( CURRENT > 2 )); then
    __transfer_script "@TRAIN@"
  elif [[ ${words[2]:t} == extract.py ]] && (( CURRENT > 2 )); then
    __transfer_script "@EXTRACT@"
  elif (( $+functions[_python] )); then
    _python
  else
    _files
  fi
}

compdef __transfer_python python python3
compdef __transfer_verb transfer
"""

FISH = r"""
function __transfer_module
    set -l words (commandline -opc)
    test (count $words) -ge 3; and test "$words[2] $words[3]" = "-m transfer"
end

function __transfer_module_words
    set -l words (commandline -opc)
    complete -C (string join ' ' -- transfer (string escape -- $words[4..-1]) (commandline -ct))
end

function __transfer_script
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test (string replace -r '.*/' '' -- $words[2]) = $argv[1]
end

for python in python python3
    complete -c $python -n __transfer_module -f -a '(__transfer_module_words)'
end
for program in python python3 transfer
    set -l suffix .py
    test $program = transfer; and set suffix ""
    for script in train extract
        complete -c $program -n "__transfer_script $script$suffix" -l config -r -a "@CONFIGS@"
        complete -c $program -n "__transfer_script $script$suffix" -l workdir -r
@CASES@
    end
    complete -c $program -n "__transfer_script train$suffix" -a '(string split " " -- "@TRAIN@")'
    complete -c $program -n "__transfer_script extract$suffix" -a '(string split " " -- "@EXTRACT@")'
end
"""

# What the value of a flag with few values is completed with.
CASES = {
    "bash": '    --{flag}) __transfer_reply "$(compgen -W "{values}" -- "$word")" ;;',
    "zsh": "    --{flag}) compadd -- {values} ;;",
    "fish": "        complete -c $program -n \"__transfer_script $script$suffix\" -l {flag} -x -a '{values}'",
}
TEMPLATES = {"bash": BASH, "zsh": ZSH, "fish": FISH}
