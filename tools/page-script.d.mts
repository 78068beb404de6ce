/** The script of the chaos report's page as one file for browsers. It expects the global `uPlot`. */
export declare const PAGE_SCRIPT: string;
export declare function bundlePageScript(): Promise<string>;
