// The smallest script: parameters in, a result out. It asks for nothing, so it may touch nothing.
export default function ({ caller, target, params }) {
  return `hello ${params?.name ?? caller.name}, this is ${target.name}`;
}
