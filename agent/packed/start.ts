import { runPacked } from './script.ts';

// What Node.js itself keeps of the code of a single executable's script is only what runs when it is loaded, and not
// the functions in it; so all that a monitor needs is a packed script.
runPacked('main');
